"""Which queries a caption contains: one Aho-Corasick pass (Aho, Corasick 1975) over the caption for all queries."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence

import ahocorasick
import numpy as np
from numpy.typing import NDArray

from cliploom import storage
from cliploom.data.curation.text import folded, marked


class Queries:
    """Folded queries without repetition, in an order that depends on them alone; a query's number is its place."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self._content = "\n".join(texts).encode()
        self.digest = hashlib.sha256(self._content).hexdigest()

    @classmethod
    def of(cls, lines: Iterable[str]) -> Queries:
        """The queries that `lines` hold in any form; blank lines are passed over."""
        known = {marked(text): text for text in sorted(map(folded, lines), reverse=True) if text}
        return cls(sorted(known.values()))

    @classmethod
    def load(cls, uri: str) -> Queries:
        """What `save` wrote."""
        return cls(storage.read(uri).decode().split("\n"))

    def __len__(self) -> int:
        return len(self.texts)

    def save(self, uri: str) -> None:
        """Write them as a text file, a query a line."""
        storage.write(uri, self._content)

    def hashes(self) -> NDArray[np.uint64]:
        """A hash of each query's text, uint64 [queries]."""
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in self.texts)
        return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


class Matcher:
    """Finds the queries that captions contain at the boundaries of words.

    Takes 400 to 600 bytes of memory a query of two words: 200 to 300 MiB for half a million.
    """

    def __init__(self, queries: Queries) -> None:
        self._automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
        for number, text in enumerate(queries.texts):
            self._automaton.add_word(marked(text), number)
        self._automaton.make_automaton()

    def find(self, captions: Sequence[str]) -> list[int]:
        """Numbers of the queries that one or more of the captions contain, ascending."""
        found = {number for text in captions for _, number in self._automaton.iter(marked(folded(text)))}
        return sorted(found)


@functools.lru_cache(maxsize=1)
def matcher(uri: str) -> Matcher:
    """The process's matcher for the queries saved at `uri`, which must never hold others."""
    return Matcher(Queries.load(uri))


@functools.lru_cache(maxsize=1)
def hashes(uri: str) -> NDArray[np.uint64]:
    """The hashes of the queries saved at `uri`, which must never hold others."""
    return Queries.load(uri).hashes()
