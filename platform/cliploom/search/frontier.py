"""The compute-optimal frontier of a scaling search, and what it recommends for an amount of compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cliploom.search import laws
from cliploom.search.laws import Estimate, Law
from cliploom.search.points import Point

_FEWEST = 3  # sizes or sample counts that a law of them needs


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats with as much compute or less, by compute."""
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (one.flops, one.error)):
        if not best or point.error < best[-1].error:
            best.append(point)
    return best


@dataclass(frozen=True)
class Fits:
    """The laws of a scaling search; None where there are too few points.

    Attributes:
        compute: error of the frontier's points by their FLOPs, without a floor and with one.
        parameters: error by parameters, at the most samples that several models have seen.
        samples: error by samples, of the model that has most points.
        joint: error by parameters and samples, of all points.
    """

    compute: Law | None
    compute_floor: Law | None
    parameters: Law | None
    samples: Law | None
    joint: Law | None

    def describe(self) -> dict[str, Any]:
        """The laws as values that JSON holds."""
        return {name: law.describe() if law else "not identifiable: too few points" for name, law in self.named()}

    def named(self) -> list[tuple[str, Law | None]]:
        """Each law with its name."""
        return [(name, getattr(self, name)) for name in self.__dataclass_fields__]


def fit_all(points: Sequence[Point]) -> Fits:
    """Fit every law that the points, all on the same data, allow."""
    best = frontier(points)
    sizes = _largest_group(points, lambda p: p.samples, lambda p: p.parameters)
    lengths = _largest_group(points, lambda p: p.model, lambda p: p.samples)
    grid = {(p.parameters, p.samples) for p in points}
    crossed = len({n for n, _ in grid}) > 1 and len({d for _, d in grid}) > 1
    return Fits(
        compute=laws.fit(laws.POWER, [p.flops for p in best], [p.error for p in best]),
        compute_floor=laws.fit(laws.FLOOR, [p.flops for p in best], [p.error for p in best]),
        parameters=laws.fit(laws.POWER, [p.parameters for p in sizes], [p.error for p in sizes]) if sizes else None,
        samples=laws.fit(laws.POWER, [p.samples for p in lengths], [p.error for p in lengths]) if lengths else None,
        joint=laws.fit(laws.JOINT, [(p.parameters, p.samples) for p in points], [p.error for p in points])
        if crossed
        else None,
    )


@dataclass(frozen=True)
class Recommendation:
    """What to train with an amount of compute.

    Attributes:
        flops: the compute.
        factor: of the compound rule on the search's preset.
        parameters: of that model.
        samples: to train on.
        error: expected, with the interval of the law.
        basis: the law that it comes from, and how far it reaches beyond the points.
    """

    flops: float
    factor: float
    parameters: float
    samples: float
    error: Estimate
    basis: str

    def describe(self) -> dict[str, Any]:
        """As values that JSON holds."""
        return {**asdict(self), "error": self.error.describe()}


def recommend(points: Sequence[Point], fits: Fits, flops: float) -> Recommendation | None:
    """The best model and number of samples for `flops`; None where the points don't identify it.

    The joint law's minimum, if there is one, where that law is identifiable. Otherwise the model grows with compute as
    it does along the frontier, if that has several models on it, and the error is that of the law on compute.
    """
    if fits.joint and not fits.joint.unclear:
        return _of_joint(points, fits.joint, flops)
    best = frontier(points)
    models = {point.parameters for point in best}
    if len(models) < _FEWEST or not fits.compute or fits.compute.unclear:
        return None
    growth = np.polyfit(np.log([p.flops for p in best]), np.log([p.parameters for p in best]), 1)
    parameters = math.exp(np.polyval(growth, math.log(flops)))
    basis = f"the frontier: parameters grow with compute to the {growth[0]:.2f}"
    return _made(points, flops, parameters, fits.compute.at(flops), basis)


def _of_joint(points: Sequence[Point], law: Law, flops: float) -> Recommendation | None:
    """The minimum of E = c + a n^-p + b d^-q along d = flops / (k n^g), where k n^g is what a sample costs.

    At it p a n^-p = q g b d^-q, which is solved for log n. None where there is no such n, since larger models or more
    samples don't help, or where it or its d is less than one.
    """
    _, a, p, b, q = law.theta
    g, log_k = _line(points, "sample_flops")
    if min(p, q, g) <= 0:
        return None
    unit_n, unit_d = np.log(law.unit)
    longest = math.log(flops) - log_k  # log d of a model of one parameter
    size = (math.log(p / (q * g)) + a + p * unit_n - b + q * (longest - unit_d)) / (p + q * g)
    if not 0 <= size <= longest / g:
        return None
    error = law.at(math.exp(size), math.exp(longest - g * size))
    return _made(points, flops, math.exp(size), error, "the joint law of parameters and samples")


def _made(points: Sequence[Point], flops: float, parameters: float, error: Estimate, basis: str) -> Recommendation:
    samples = flops / _interpolate(points, parameters, "sample_flops")
    reach = f"{flops / max(point.flops for point in points):.3g} times the compute of the largest point"
    factor = _interpolate(points, parameters, "factor")
    return Recommendation(flops, factor, parameters, samples, error, f"{basis}; {reach}")


def _interpolate(points: Sequence[Point], parameters: float, attribute: str) -> float:
    """An attribute of a model with so many parameters."""
    return math.exp(np.polyval(_line(points, attribute), math.log(parameters)))


def _line(points: Sequence[Point], attribute: str) -> tuple[float, float]:
    """Slope and level of an attribute by parameters: a straight line in logarithms through the models measured."""
    known = sorted({(point.parameters, float(getattr(point, attribute))) for point in points})
    if len(known) == 1:
        return 1.0, math.log(known[0][1] / known[0][0])
    sizes, values = np.log(np.array(known)).T
    slope, level = np.polyfit(sizes, values, 1)
    return float(slope), float(level)


def _largest_group(points: Sequence[Point], same: Any, varied: Any) -> list[Point]:
    """Of the groups of points that are the same in one thing, that with most values of another; the later of equals."""
    groups: dict[Any, list[Point]] = {}
    for point in sorted(points, key=lambda one: one.flops):
        groups.setdefault(same(point), []).append(point)
    best = max(groups.values(), key=lambda group: len({varied(point) for point in group}), default=[])
    return best if len({varied(point) for point in best}) >= _FEWEST else []
