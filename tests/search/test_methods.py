"""Efficiency between curves, on curves whose answer is known."""

from __future__ import annotations

import math

import pytest

from cliploom.search.methods import Curve, ratio, ratios

IMAGES = tuple(2**n for n in range(1, 11))


def curve(name: str, shift: float) -> Curve:
    """Accuracy that grows with log2 of the images; `shift` doublings ahead."""
    return Curve(name, IMAGES, tuple(0.01 * (math.log2(n) + shift) for n in IMAGES))


def test_a_curve_that_is_two_doublings_ahead_is_four_times_as_efficient() -> None:
    found = ratio(curve("slow", 0), curve("fast", 2))
    assert (found.fast, found.slow) == ("fast", "slow")
    assert found.accuracy == pytest.approx(0.1)
    assert found.ratio == pytest.approx(4)


def test_steps_go_from_the_worst_to_the_best() -> None:
    found = ratios([curve("best", 3.5), curve("worst", 0), curve("middle", 1.5)])
    assert [(one.slow, one.fast) for one in found] == [("worst", "middle"), ("middle", "best")]
    assert [one.ratio for one in found] == pytest.approx([2**1.5, 4])


def test_a_dip_does_not_count_as_not_reached() -> None:
    dipping = Curve("dips", (1, 2, 4, 8), (0.1, 0.3, 0.2, 0.4))
    assert dipping.needed(0.3) == 2
    assert 4 < dipping.needed(0.35) < 8


def test_what_was_not_seen_is_not_made_up() -> None:
    low, high = Curve("low", (1, 2), (0.1, 0.2)), Curve("high", (1, 2), (0.5, 0.6))
    assert math.isnan(low.needed(0.3))
    found = ratio(low, high)
    assert math.isnan(found.ratio)
    assert str(found.describe()["ratio"]).startswith("not identifiable")
