"""Rows that don't fit into memory, on this machine's disk, to be looked at a part at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliploom.data.hashing import mix

_BUCKET_ROWS = 1 << 20
_MOST_BUCKETS = 512  # files open at once


class Spill:
    """Structured rows in files by the hash of their field `key`, so that equal keys come together.

    Args:
        folder: an empty one, for the files.
        dtype: of the rows; its field `key` is uint64.
        expected: number of rows, or more; sets how many files there are.
    """

    def __init__(self, folder: Path, dtype: np.dtype, expected: int) -> None:
        folder.mkdir()
        count = min(max(1, math.ceil(expected / _BUCKET_ROWS)), _MOST_BUCKETS)
        self._paths = [folder / str(number) for number in range(count)]
        self._dtype = dtype
        for path in self._paths:
            path.touch()

    def add(self, rows: NDArray) -> None:
        """Put rows into their files."""
        bucket = mix(rows["key"]) % np.uint64(len(self._paths))
        order = np.argsort(bucket, kind="stable")
        ends = np.searchsorted(bucket[order], np.arange(len(self._paths)), side="right")
        for path, part in zip(self._paths, np.split(rows[order], ends[:-1]), strict=True):
            if len(part):
                with path.open("ab") as file:
                    part.tofile(file)

    def buckets(self) -> Iterator[NDArray]:
        """The rows of each file in turn, which is then removed."""
        for path in self._paths:
            yield np.fromfile(path, dtype=self._dtype)
            path.unlink()
