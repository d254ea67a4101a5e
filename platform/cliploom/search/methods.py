"""Objectives compared as in the paper's figure 2: zero-shot accuracy by images seen, and what one saves another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Curve:
    """One objective's accuracy as it trains.

    Attributes:
        name: of the objective.
        images: seen, ascending.
        accuracy: zero-shot top 1, at each.
    """

    name: str
    images: tuple[int, ...]
    accuracy: tuple[float, ...]

    def needed(self, accuracy: float) -> float:
        """Images until this accuracy is first reached, between measurements on a line over log images; else nan."""
        best = np.maximum.accumulate(self.accuracy)
        place = int(np.searchsorted(best, accuracy))
        if place == len(best):
            return math.nan
        if place == 0:
            return float(self.images[0]) if accuracy == best[0] else math.nan  # it was reached before anyone looked
        share = (accuracy - best[place - 1]) / (best[place] - best[place - 1])
        low, high = (math.log(count) for count in self.images[place - 1 : place + 1])
        return math.exp(low + share * (high - low))


class Ratio(NamedTuple):
    """How many times fewer images one objective needs than another for the same accuracy."""

    fast: str
    slow: str
    accuracy: float  # at which they are compared: the highest that both have reached
    ratio: float

    def describe(self) -> dict[str, Any]:
        """As values that JSON holds; a ratio that is not identifiable is said to be."""
        if math.isfinite(self.ratio):
            return self._asdict()
        why = "not identifiable: one is above the other's best from its first measurement on"
        return {**self._asdict(), "ratio": why}


def ratio(slow: Curve, fast: Curve) -> Ratio:
    """Compare two curves at the highest accuracy that both have reached."""
    level = min(max(slow.accuracy), max(fast.accuracy))
    return Ratio(fast.name, slow.name, level, slow.needed(level) / fast.needed(level))


def ratios(curves: Sequence[Curve]) -> list[Ratio]:
    """Each curve against the one that ends next below it: figure 2's steps."""
    order = sorted(curves, key=lambda curve: max(curve.accuracy))
    return [ratio(slow, fast) for slow, fast in itertools.pairwise(order)]
