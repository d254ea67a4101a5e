"""Keys that find all 64-bit codes within a Hamming distance of each other."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from numpy.typing import NDArray

from cliploom.data.curation.similar import Key
from cliploom.data.hashing import mix

_BITS = 64
_MOST_TABLES = 512


def tables(count: int, distance: int) -> list[Key]:
    """Key functions such that any two of `count` codes within `distance` bits of each other share a key.

    The bits are cut into `blocks`; codes that differ in `distance` bits agree in all but so many blocks, so there is a
    table for each choice of that many blocks to leave out (Manku, Jain, Das Sarma 2007, "Detecting near-duplicates for
    web crawling"). More blocks make longer keys, hence fewer rows to compare, and more tables: the cheapest is taken. A
    million codes take seconds within 4 bits, and minutes within 8.
    """
    blocks = min(_choices(distance), key=lambda blocks: _cost(count, distance, blocks))
    edges = [block * _BITS // blocks for block in range(blocks + 1)]
    masks = [((1 << stop) - 1) ^ ((1 << start) - 1) for start, stop in itertools.pairwise(edges)]
    kept = itertools.combinations(masks, blocks - distance)
    return [functools.partial(_key, mask=sum(choice)) for choice in kept]


def near(one: NDArray, other: NDArray, distance: int) -> NDArray[np.bool_]:
    """Whether the codes of rows differ from those of other rows in at most `distance` bits."""
    return np.asarray(np.bitwise_count(one["code"] ^ other["code"]) <= distance)


def _key(rows: NDArray, mask: int) -> NDArray[np.uint64]:
    return mix(rows["code"] & np.uint64(mask))


def _choices(distance: int) -> list[int]:
    return [blocks for blocks in range(distance + 1, _BITS + 1) if math.comb(blocks, distance) <= _MOST_TABLES]


def _cost(count: int, distance: int, blocks: int) -> float:
    """Rows to sort, and pairs to compare, were codes evenly spread."""
    bits = _BITS * (blocks - distance) / blocks
    return math.comb(blocks, distance) * (count + count * count / 2 ** (bits + 1))
