"""Fitted laws against known ones, scipy's own fits, and the paper's points."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from cliploom.evaluation import paper
from cliploom.search import laws

# Figure 9 of Radford et al. 2021: GFLOPs an image, counted as multiplications and additions in one.
PAPER_GFLOPS = {"RN50": 6.1, "RN101": 9.9, "RN50x4": 21.5, "RN50x16": 75.3, "RN50x64": 265.9}
EXPONENT = 0.3


def data(seed: int, count: int, noise: float, floor: float = 0.0) -> tuple[list[float], list[float]]:
    x = np.geomspace(1e15, 1e18, count)
    spread = np.random.default_rng(seed).normal(0, noise, count)
    return x.tolist(), ((floor + 0.5 * (x / 3e16) ** -EXPONENT) * np.exp(spread)).tolist()


def fitted(form: laws.Form, x: list[float] | list[list[float]], errors: list[float], draws: int = 50) -> laws.Law:
    law = laws.fit(form, x, errors, draws)
    assert law is not None
    return law


def paper_points() -> tuple[list[float], list[float]]:
    """Compute, and the mean zero-shot error over the data sets of table 11 (the figure's own mean is over more)."""
    table = paper.zeroshot()
    return list(PAPER_GFLOPS.values()), [1 - float(np.mean(list(table[name].values()))) for name in PAPER_GFLOPS]


def test_exact_points_give_the_law_back() -> None:
    law = fitted(laws.POWER, *data(0, 8, 0.0))
    assert law.estimates["b"].value == pytest.approx(EXPONENT)
    assert law.at(1e19).value == pytest.approx(0.5 * (1e19 / 3e16) ** -EXPONENT)
    law = fitted(laws.FLOOR, *data(0, 8, 0.0, floor=0.2))
    assert law.estimates["c"].value == pytest.approx(0.2, rel=1e-4)
    assert law.estimates["b"].value == pytest.approx(EXPONENT, rel=1e-4)


def test_exact_points_give_the_joint_law_back() -> None:
    grid = [[n, d] for n in (1e6, 4e6, 1.6e7) for d in (1e7, 1e8, 1e9)]
    errors = [0.3 + 2e2 * n**-0.45 + 5e2 * d**-0.4 for n, d in grid]
    law = fitted(laws.JOINT, grid, errors, draws=20)
    assert law.estimates["p"].value == pytest.approx(0.45, rel=1e-3)
    assert law.estimates["q"].value == pytest.approx(0.4, rel=1e-3)
    assert law.at(1e8, 1e10).value == pytest.approx(0.3 + 2e2 * 1e8**-0.45 + 5e2 * 1e10**-0.4, rel=1e-3)
    assert not law.unclear


@pytest.mark.parametrize("count", [4, 6, 10])
def test_intervals_of_a_power_law_cover_the_truth(count: int) -> None:
    """95 % of them, within three standard deviations of what 300 draws of the data leave to chance."""
    found = [fitted(laws.POWER, *data(seed, count, 0.05), draws=400).estimates["b"] for seed in range(300)]
    assert 0.91 <= np.mean([b.low <= EXPONENT <= b.high for b in found]) <= 0.99


def test_intervals_of_a_law_with_a_floor_cover_the_truth() -> None:
    found = [fitted(laws.FLOOR, *data(seed, 10, 0.02, floor=0.2), draws=100).estimates for seed in range(20)]
    assert sum(one["b"].low <= EXPONENT <= one["b"].high for one in found) >= 17
    assert sum(one["c"].low <= 0.2 <= one["c"].high for one in found) >= 17


def test_a_power_law_of_the_papers_points_is_scipys() -> None:
    x, errors = paper_points()
    law = fitted(laws.POWER, x, errors, draws=4000)
    theirs = stats.linregress(np.log(x), np.log(errors))
    b = law.estimates["b"]
    assert b.value == pytest.approx(-theirs.slope, rel=1e-9)
    half = stats.t.ppf(0.975, len(x) - 2) * theirs.stderr
    assert (b.high - b.low) / 2 == pytest.approx(half, rel=0.1)
    assert not law.unclear


def test_a_floor_under_the_papers_points_is_scipys_and_said_to_be_unclear() -> None:
    x, errors = paper_points()
    law = fitted(laws.FLOOR, x, errors)
    unit = law.unit[0]

    def logarithm(x: np.ndarray, c: float, a: float, b: float) -> np.ndarray:
        found: np.ndarray = np.log(c + a * (x / unit) ** -b)
        return found

    bounds = ([0, 1e-9, 0], [1, 1, 5])
    theirs, _ = optimize.curve_fit(logarithm, np.array(x), np.log(errors), p0=[0.1, 0.3, 0.2], bounds=bounds)
    ours = [law.estimates[name].value for name in ("c", "a", "b")]
    assert np.sum((logarithm(np.array(x), *ours) - np.log(errors)) ** 2) <= 1.001 * np.sum(
        (logarithm(np.array(x), *theirs) - np.log(errors)) ** 2
    )
    assert law.unclear


def test_what_points_do_not_tell_is_said() -> None:
    x = np.geomspace(1, 100, 6).tolist()
    flat = fitted(laws.POWER, x, [0.50, 0.51, 0.49, 0.50, 0.51, 0.49])
    assert flat.unclear == {"b": "its interval includes 0"}
    two = fitted(laws.POWER, x[:2], [0.5, 0.4])
    assert set(two.unclear.values()) == {"as many parameters as points"}
    assert two.at(1000).high == np.inf
    assert laws.fit(laws.FLOOR, x[:2], [0.5, 0.4]) is None
    without = fitted(laws.FLOOR, *data(3, 8, 0.05))
    assert "c" in without.unclear


def test_a_point_that_was_held_out_is_checked_against_the_interval() -> None:
    x, errors = data(1, 9, 0.02)
    law = fitted(laws.POWER, x[:-1], errors[:-1], draws=400)
    assert laws.check(law, [x[-1]], errors[-1]).inside
    assert not laws.check(law, [x[-1]], 2 * errors[-1]).inside
