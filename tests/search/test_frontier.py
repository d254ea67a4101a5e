"""The frontier and the recommendation, on a made-up world whose best answer is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from cliploom.search.frontier import fit_all, frontier, recommend
from cliploom.search.points import Point, held_out, repeated

C, A, P, B, Q = 0.2, 50.0, 0.4, 200.0, 0.35
COST = 6.0  # FLOPs a parameter and sample


def point(parameters: int, samples: int, seed: int = 0, noise: float = 0.0) -> Point:
    error = C + A * parameters**-P + B * samples**-Q
    spread = np.exp(np.random.default_rng(seed + parameters + samples).normal(0, noise)) if noise else 1.0
    return Point(
        f"{parameters}-{samples}-{seed}",
        f"M x {parameters / 1e6:g}",
        parameters / 1e6,
        parameters,
        COST * parameters,
        samples,
        samples,
        float(error * spread),
        seed,
    )


GRID = [point(n, d) for n in (1_000_000, 4_000_000, 16_000_000) for d in (1_000_000, 4_000_000, 16_000_000)]


def test_the_frontier_holds_what_nothing_cheaper_beats() -> None:
    best = frontier(GRID)
    assert [p.flops for p in best] == sorted(p.flops for p in best)
    assert [p.error for p in best] == sorted((p.error for p in best), reverse=True)
    for one in GRID:
        assert one in best or any(other.flops <= one.flops and other.error <= one.error for other in best)


def test_the_recommendation_is_the_minimum_of_the_law_at_that_compute() -> None:
    """Hoffmann et al. 2022, equation 4: n = g (F / 6)^(q / (p + q)), g = (p A / (q B))^(1 / (p + q))."""
    flops = 100 * max(p.flops for p in GRID)
    fits = fit_all(GRID)
    found = recommend(GRID, fits, flops)
    assert found is not None
    best = (P * A / (Q * B)) ** (1 / (P + Q)) * (flops / COST) ** (Q / (P + Q))
    assert found.parameters == pytest.approx(best, rel=0.1)
    assert found.samples * COST * found.parameters == pytest.approx(flops, rel=1e-6)
    assert found.factor == pytest.approx(found.parameters / 1e6, rel=1e-6)
    assert found.error.value == pytest.approx(C + A * best**-P + B * (flops / COST / best) ** -Q, rel=0.01)
    assert "100 times" in found.basis


def test_one_model_is_no_basis_for_a_recommendation() -> None:
    points = [point(1_000_000, d) for d in (10**6, 10**7, 10**8)]
    fits = fit_all(points)
    assert fits.joint is None
    assert fits.samples is not None
    assert fits.parameters is None
    assert recommend(points, fits, 1e18) is None
    assert fits.describe()["joint"] == "not identifiable: too few points"


def test_the_largest_place_is_held_out_with_all_its_seeds() -> None:
    points = [*GRID, point(16_000_000, 16_000_000, seed=1)]
    fitted, checked = held_out(points)
    assert {p.seed for p in checked} == {0, 1}
    assert len(fitted) == len(GRID) - 1
    assert [len(found) for found in repeated(points)] == [2]
