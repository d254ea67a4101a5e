"""Goodput by the formula, and by playing failures out."""

from __future__ import annotations

import numpy as np
import pytest

from cliploom.planning.goodput import best_interval, goodput


def played(failures_per_hour: float, interval: float, save: float, restart: float, hours: float) -> float:
    """Training kept of `hours`, failures drawn one by one."""
    random = np.random.default_rng(0)
    end, now, kept = hours * 3600, 0.0, 0.0
    fails = random.exponential(3600 / failures_per_hour)
    while now < end:
        done = now + interval + save
        if done <= fails:
            now, kept = done, kept + interval
            continue
        while fails < now + (restart if now == fails else interval + save):  # a start may fail as well
            now = fails
            fails = now + random.exponential(3600 / failures_per_hour)
        now += restart
    return kept / now


@pytest.mark.parametrize(
    ("failures", "interval", "save", "restart"), [(0.1, 900, 5, 300), (2, 600, 20, 120), (20, 60, 5, 30)]
)
def test_it_is_what_playing_failures_out_gives(failures: float, interval: float, save: float, restart: float) -> None:
    formula = goodput(failures, interval, save, restart)
    assert formula == pytest.approx(played(failures, interval, save, restart, hours=40_000 / failures), rel=0.02)


def test_without_failures_only_saving_costs() -> None:
    assert goodput(0, 600, 6, 100) == pytest.approx(600 / 606)


def test_the_best_interval_is_youngs_where_failures_are_rare() -> None:
    """The square root of twice the save over the rate, and a little less (Young 1974)."""
    assert best_interval(0.5, 2, 60) == pytest.approx((2 * 2 * 3600 / 0.5) ** 0.5, rel=0.02)
