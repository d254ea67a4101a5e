"""Of rows that are alike the first stays: for exact duplicates and for near ones, in any order of arrival."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliploom.data.curation.facts import KEPT
from cliploom.data.curation.spill import Spill

# One pair: `order` is its hash, `number` its place in the manifest; `code` is what may be alike, or unused.
ROW = np.dtype([("key", "u8"), ("order", "u8"), ("number", "i8"), ("code", "u8")])
_AT_ONCE = 1 << 20  # rows

Key = Callable[[NDArray], NDArray[np.uint64]]  # of rows [n], a key for each
Near = Callable[[NDArray, NDArray], NDArray[np.bool_]]  # of rows beside rows, which ones are alike


def drop_similar(
    rows: Iterator[NDArray],
    tables: Callable[[int], Sequence[Key]],
    near: Near | None,
    rule: int,
    verdicts: NDArray[np.uint8],
) -> None:
    """Drop each row that is near one of a smaller (order, number) which shares one of its keys with it.

    So no two that stay are alike (as far as alike ones share a key), and of any group the smallest stays. Which ones
    go depends on the rows alone, not on how they come in. Memory is that of a bucket of rows, whatever their number.

    Args:
        rows: arrays of ROW, of pairs that are kept so far.
        tables: the keys to use for so many rows, one for each locality-sensitive hash table.
        near: whether two rows with a common key are alike indeed; must be symmetric. None: those with equal codes.
        rule: what `verdicts` of a dropped one becomes, uint8 [pairs of the manifest].
    """
    with tempfile.TemporaryDirectory(prefix="cliploom-curate-") as folder:
        base = Path(folder, "rows")
        with base.open("wb") as file:
            for part in rows:
                part.tofile(file)
        count = base.stat().st_size // ROW.itemsize
        for number, key in enumerate(tables(count)):
            table = Spill(Path(folder, str(number)), ROW, count)
            for part in _read(base, count):
                part["key"] = key(part)
                if near is None:  # what is equal to a dropped one is equal to what dropped it
                    _drop(part, _equal, rule, verdicts)
                    part = part[verdicts[part["number"]] == KEPT]  # so that a common duplicate fills no bucket
                table.add(part)
            for part in table.buckets():
                _drop(part, near or _equal, rule, verdicts)


def _equal(one: NDArray, other: NDArray) -> NDArray[np.bool_]:
    return np.asarray(one["code"] == other["code"])


def _read(base: Path, count: int) -> Iterator[NDArray]:
    for start in range(0, count, _AT_ONCE):
        yield np.fromfile(base, dtype=ROW, count=min(_AT_ONCE, count - start), offset=start * ROW.itemsize)


def _drop(rows: NDArray, near: Near, rule: int, verdicts: NDArray[np.uint8]) -> None:
    """Compare each row with those before it that have its key: the next before, the second before, and so on."""
    rows = rows[np.lexsort((rows["number"], rows["order"], rows["key"]))]
    keys, numbers = rows["key"], rows["number"]
    undecided = np.flatnonzero(verdicts[numbers] == KEPT)
    for lag in range(1, len(rows)):
        undecided = undecided[undecided >= lag]
        undecided = undecided[keys[undecided] == keys[undecided - lag]]
        if not len(undecided):
            return
        alike = near(rows[undecided - lag], rows[undecided])
        verdicts[numbers[undecided[alike]]] = rule
        undecided = undecided[~alike]
