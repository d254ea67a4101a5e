"""Queries from a reference text: its frequent words, and the pairs of words that belong together.

"All words occurring at least 100 times in the English version of Wikipedia ... augmented with bi-grams with high
pointwise mutual information" (Radford et al. 2021, 2.2). The text is counted in tasks, a stretch each. The words
stand in memory (some 100 bytes each; ten million in the English Wikipedia), the far more numerous bigrams on disk.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliploom import storage
from cliploom.data.curation.spill import Spill
from cliploom.data.curation.text import folded, runs_of_words
from cliploom.data.runner import Runner
from cliploom.errors import InputError
from cliploom.progress import Progress
from cliploom.settings.curation import CurateQueries

_STRETCH = 32 << 20  # bytes
_TAIL = 1 << 16  # bytes read at once to find a line's end
_BYTES_A_BIGRAM = 16  # of text, or more; sets how many files hold them
_COUNTED = np.dtype([("key", "u8"), ("count", "i8")])


class Stretch(NamedTuple):
    """The lines of a text that begin in [start, stop)."""

    uri: str
    start: int
    stop: int
    size: int  # of the text


def size(settings: CurateQueries) -> int:
    """Bytes of the text `settings.reference`.

    Raises:
        InputError: there is no such text.
    """
    try:
        return storage.size(settings.reference or "")
    except FileNotFoundError:
        raise InputError(f"curate.queries.reference: there is no file {settings.reference}") from None


def queries(settings: CurateQueries, folder: str, run: Runner) -> Iterator[str]:
    """The queries that the text `settings.reference` gives.

    Args:
        folder: URI for what is handed to tasks; another one each time, as processes keep what they have read.

    Raises:
        InputError: there is no such text, or no word in it is frequent.
    """
    uri, end = settings.reference or "", size(settings)
    stretches = [Stretch(uri, start, min(start + _STRETCH, end), end) for start in range(0, end, _STRETCH)]
    counts: Counter[str] = Counter()
    with Progress("words of the reference", len(stretches)) as progress:
        for number, (_, found) in enumerate(run(_count_words, stretches), start=1):
            counts.update(found)
            progress.update(number)
    total = counts.total()
    words = {word: count for word, count in counts.items() if count >= settings.min_count}
    if not words:
        raise InputError(f"curate.queries.min_count: no word of {uri} is there {settings.min_count} times: lower it")
    yield from words
    if settings.bigram_pmi is not None:
        yield from _bigrams(settings, stretches, words, total, folder, run)


def _bigrams(
    settings: CurateQueries, stretches: list[Stretch], words: dict[str, int], total: int, folder: str, run: Runner
) -> Iterator[str]:
    """Bigrams as frequent as a query must be whose pointwise mutual information log2(p(a b) / p(a) p(b)) is high
    (Church, Hanks 1990, "Word association norms, mutual information, and lexicography")."""
    names = sorted(words)
    frequency = np.array([words[name] for name in names], dtype=np.float64) / total
    vocabulary = storage.join(folder, "words.txt")
    storage.write(vocabulary, "\n".join(names).encode())
    with tempfile.TemporaryDirectory(prefix="cliploom-curate-") as place:
        spill = Spill(Path(place, "bigrams"), _COUNTED, stretches[-1].size // _BYTES_A_BIGRAM)
        bigrams = 0
        with Progress("bigrams of the reference", len(stretches)) as progress:
            task = functools.partial(_count_bigrams, vocabulary=vocabulary)
            for number, (_, (rows, seen)) in enumerate(run(task, stretches), start=1):
                spill.add(rows)
                bigrams += seen
                progress.update(number)
        for rows in spill.buckets():
            keys, place_of = np.unique(rows["key"], return_inverse=True)
            counts = np.bincount(place_of, weights=rows["count"], minlength=len(keys))
            left, right = (keys >> np.uint64(32)).astype(np.int64), (keys & np.uint64(2**32 - 1)).astype(np.int64)
            information = np.log2(counts / bigrams / (frequency[left] * frequency[right]))
            chosen = (counts >= settings.min_count) & (information >= (settings.bigram_pmi or 0.0))
            yield from (f"{names[a]} {names[b]}" for a, b in zip(left[chosen], right[chosen], strict=True))


def _count_words(stretch: Stretch) -> Counter[str]:
    return Counter(word for run in _runs(stretch) for word in run)


def _count_bigrams(stretch: Stretch, vocabulary: str) -> tuple[NDArray, int]:
    """Bigrams of frequent words as (left << 32 | right, count), and how many bigrams there are of any words."""
    numbers = _numbers(vocabulary)
    seen = 0
    found: Counter[int] = Counter()
    for run in _runs(stretch):
        seen += len(run) - 1
        known = [numbers.get(word, -1) for word in run]
        found.update(a << 32 | b for a, b in itertools.pairwise(known) if a >= 0 and b >= 0)
    return np.array(list(found.items()), dtype=np.uint64).reshape(-1, 2).copy().view(_COUNTED)[:, 0], seen


@functools.lru_cache(maxsize=1)
def _numbers(vocabulary: str) -> dict[str, int]:
    return {word: number for number, word in enumerate(storage.read(vocabulary).decode().split("\n"))}


def _runs(stretch: Stretch) -> Iterator[list[str]]:
    for line in _lines(stretch).decode("utf-8", "replace").split("\n"):
        yield from runs_of_words(folded(line))


def _lines(stretch: Stretch) -> bytes:
    """The whole lines that begin in the stretch."""
    before = 1 if stretch.start else 0  # whether a line begins at its very start
    data = storage.read(stretch.uri, stretch.start - before, stretch.stop - stretch.start + before)
    if before:
        _, newline, data = data.partition(b"\n")
        if not newline:
            return b""
    if not data:
        return b""
    end = stretch.stop
    while not data.endswith(b"\n") and end < stretch.size:
        more, newline, _ = storage.read(stretch.uri, end, _TAIL).partition(b"\n")
        data += more + newline
        end += _TAIL
    return data
