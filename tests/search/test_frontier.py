"""The frontier and the recommendation, on a made-up world whose best answer is known in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cliploom.search.frontier import fit_all, frontier, recommend
from cliploom.search.points import Point, held_out, repeated

C, A, P, B, Q = 0.2, 50.0, 0.4, 200.0, 0.35
COST = 6.0  # FLOPs a parameter and sample
DATA = 10**9  # different pairs


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
        DATA,
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


@pytest.mark.parametrize("times", ["1e-06", "100", "1e+12"])
def test_the_recommendation_is_the_minimum_of_the_law_at_that_compute(times: str) -> None:
    """Hoffmann et al. 2022, equation 4: n = g (F / 6)^(q / (p + q)), g = (p A / (q B))^(1 / (p + q))."""
    flops = float(times) * max(p.flops for p in GRID)
    fits = fit_all(GRID)
    found = recommend(GRID, fits, flops)
    assert found is not None
    best = (P * A / (Q * B)) ** (1 / (P + Q)) * (flops / COST) ** (Q / (P + Q))
    assert found.parameters == pytest.approx(best, rel=0.05)
    assert found.samples * COST * found.parameters == pytest.approx(flops, rel=1e-6)
    assert found.factor == pytest.approx(found.parameters / 1e6, rel=1e-6)
    assert found.error.value == pytest.approx(C + A * best**-P + B * (flops / COST / best) ** -Q, rel=0.01)
    assert f"{times} times" in found.basis


def test_where_more_samples_do_harm_no_model_is_the_best() -> None:
    points = [replace(p, error=C + A * p.parameters**-P + 1e-3 * p.samples**0.2) for p in GRID]
    fits = fit_all(points)
    assert fits.joint is not None
    assert not fits.joint.unclear
    assert recommend(points, fits, 1e18) is None


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


def test_what_is_at_the_largest_compute_but_for_a_part_of_a_batch_is_held_out() -> None:
    """Compute of 1e15 and 1e14 FLOPs for each of three models, in whole batches of 3,000."""
    batch = 3000
    points = [
        replace(point(n, int(flops / (COST * n)) // batch * batch), batch=batch)
        for flops in (1e14, 1e15)
        for n in (1_000_000, 3_700_000, 13_000_000)
    ]
    assert len({p.flops for p in points}) == 6
    fitted, checked = held_out(points)
    assert (fitted, checked) == (points[:3], points[3:])
    assert held_out(points[3:]) == ([], points[3:])
    assert set(fit_all([]).describe().values()) == {"not identifiable: too few points"}
    assert recommend([], fit_all([]), 1e18) is None


def test_what_was_trained_on_less_data_is_in_no_law() -> None:
    less = [replace(p, data=DATA // 4, error=1.5 * p.error) for p in GRID]
    assert held_out([*less, *GRID]) == held_out(GRID)


def test_without_a_joint_law_models_grow_as_they_do_along_the_frontier() -> None:
    """Three models, each with samples in proportion to the root of compute: parameters grow with the root as well."""
    points = []
    for number, factor in enumerate((1.0, 4.0, 16.0)):
        parameters = int(1e6 * factor)
        flops = COST * 1e12 * factor**2
        error = 3.0 * (flops / 1e13) ** -0.1
        points.append(
            Point(f"p{number}", f"M x {factor:g}", factor, parameters, COST * parameters, parameters, DATA, error)
        )
    fits = fit_all(points)
    assert fits.joint is None
    found = recommend(points, fits, 100 * points[-1].flops)
    assert found is not None
    assert found.parameters == pytest.approx(1.6e8, rel=0.01)
    assert found.samples == pytest.approx(1.6e8, rel=0.01)
    assert found.error.value == pytest.approx(3.0 * (100 * points[-1].flops / 1e13) ** -0.1, rel=1e-3)
    assert "to the 0.50" in found.basis
