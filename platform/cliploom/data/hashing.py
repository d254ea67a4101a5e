"""A hash of integers in place of random numbers: no state to save, and the same values in any library's version."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_U64 = np.uint64


def mix(*words: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """A hash of integers, element by element over arrays: each word is mixed into those before it by splitmix64
    (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators")."""
    value: NDArray[np.uint64] = np.zeros((), dtype=_U64)
    with np.errstate(over="ignore"):
        for word in words:
            value = (value ^ np.asarray(word).astype(_U64)) + _U64(0x9E3779B97F4A7C15)
            value = (value ^ (value >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
            value = (value ^ (value >> _U64(27))) * _U64(0x94D049BB133111EB)
            value = value ^ (value >> _U64(31))
    return value
