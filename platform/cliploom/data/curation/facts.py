"""What `scan` finds out about the pairs of one shard, in a file of its own; nothing later looks at the pairs again."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliploom import storage
from cliploom.data.hashing import mix

KEPT = 0
RULES = (
    "kept",
    "caption is not UTF-8 text",
    "no captions",
    "empty caption",
    "caption too short",
    "caption too long",
    "other script",
    "no query",
    "undecodable image",
    "image too large",
    "image too small",
    "image too elongated",
    "duplicate caption",
    "duplicate image",
    "near-duplicate image",
    "near-duplicate embedding",
    "above the limit of its queries",
)
RULE = {name: number for number, name in enumerate(RULES)}


@dataclass(frozen=True)
class Facts:
    """The pairs of a shard, in its order."""

    rule: NDArray[np.uint8]  # [n], number in RULES
    caption: NDArray[np.uint64]  # [n, 2], digest of the captions
    image: NDArray[np.uint64]  # [n, 2], digest of the encoded image
    phash: NDArray[np.uint64]  # [n], zero where no rule asks for it
    starts: NDArray[np.int64]  # [n + 1], where a pair's queries begin in `queries`
    queries: NDArray[np.int32]  # numbers of the queries that each pair's captions contain

    def order(self, seed: int) -> NDArray[np.uint64]:
        """A hash of each pair's content, uint64 [n]: among pairs that are alike the smallest stays."""
        return mix(seed, *self.caption.T, *self.image.T)

    def save(self, uri: str) -> None:
        """Write them, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        storage.write(uri, buffer.getvalue())

    @classmethod
    def load(cls, uri: str) -> Facts:
        """What `save` wrote."""
        with np.load(io.BytesIO(storage.read(uri)), allow_pickle=False) as arrays:
            return cls(**arrays)


class Slice(NamedTuple):
    """One shard's pairs, as the tasks that decide on facts get them."""

    facts: str  # URI
    first: int  # number of its first pair in the manifest
    verdicts: NDArray[np.uint8]  # [n], of its pairs so far, number in RULES


# A pass over all shards, with their verdicts as they are then, named for the progress line: (name, function of a slice)
# to each slice with the function's result, in the manifest's order.
Pass = Callable[[str, Callable[[Slice], Any]], Iterator[tuple[Slice, Any]]]
