"""Power laws of error, fitted in logarithms, with bootstrap intervals and a plain answer where data don't tell.

All forms give an error E > 0 of inputs x > 0, in units of the data's geometric mean, so that a coefficient is an error
in the middle of the data:

    power   E = a x^-b
    floor   E = c + a x^-b                  c is what no amount of x removes
    joint   E = c + a n^-p + b d^-q         of parameters n and samples d (Hoffmann et al. 2022, "Training
                                            Compute-Optimal Large Language Models", 3.3)

A fit minimises the squares of log(measured / predicted). Intervals are 95 %, percentiles of a parametric bootstrap:
each replicate is fitted to the law's own errors times log-normal noise. Points are few, so that the residuals say only
roughly how large the noise is; a replicate therefore draws its size too, as s sqrt(f / chi-squared) of the residuals'
standard deviation s and f degrees of freedom. Of a law that is linear in logarithms this gives Student's intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[np.float64]
DRAWS = 400  # of a bootstrap
_CONFIDENCE = 0.95
_FLOOR_SHARES = (0.0, 0.5, 0.9)  # of the smallest error: where the search for a floor begins
_STEEPEST = 10.0  # exponent


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def describe(self) -> dict[str, float | None]:
        """As values that JSON holds."""
        return {name: _finite(value) for name, value in self._asdict().items()}


@dataclass(frozen=True)
class Form:
    """A form of law.

    Attributes:
        parameters: their names; `coefficients`, `exponents` and `floors` among them.
        inputs: how many there are.
        predict: of (parameters [p], inputs [n, k]) the errors [n]; coefficients are logarithms.
        jacobian: of the same arguments, the derivatives of the errors [n, p].
    """

    name: str
    parameters: tuple[str, ...]
    inputs: int
    predict: Callable[[Array, Array], Array]
    jacobian: Callable[[Array, Array], Array]


def _terms(theta: Array, x: Array) -> Array:
    """exp(coefficient) x^-exponent for each input, [n, k]; `theta` holds (coefficient, exponent) pairs."""
    coefficients, exponents = theta.reshape(-1, 2).T
    terms: Array = np.exp(coefficients - exponents * np.log(x))
    return terms


def _predict(theta: Array, x: Array) -> Array:
    floor = theta[0] if len(theta) % 2 else 0.0
    errors: Array = floor + _terms(theta[len(theta) % 2 :], x).sum(1)
    return errors


def _jacobian(theta: Array, x: Array) -> Array:
    terms = _terms(theta[len(theta) % 2 :], x)
    columns = np.stack([terms, -terms * np.log(x)], axis=2).reshape(len(x), -1)
    return np.hstack([np.ones((len(x), len(theta) % 2)), columns])


POWER = Form("power", ("a", "b"), 1, _predict, _jacobian)
FLOOR = Form("floor", ("c", "a", "b"), 1, _predict, _jacobian)
JOINT = Form("joint", ("c", "a", "p", "b", "q"), 2, _predict, _jacobian)
_COEFFICIENTS = {"power": ("a",), "floor": ("a",), "joint": ("a", "b")}
_EXPONENTS = {"power": ("b",), "floor": ("b",), "joint": ("p", "q")}


@dataclass(frozen=True)
class Law:
    """A fitted law.

    Attributes:
        form: what was fitted.
        unit: geometric mean of each input, by which inputs are divided.
        estimates: of each parameter.
        unclear: why a parameter is not identifiable, by name; empty where all are.
        spread: standard deviation of log(measured / predicted), for as many degrees of freedom as are left.
        points: how many were fitted.
        theta: the parameters as the form takes them.
        draws: the same of each bootstrap replicate, [draws, p].
        sizes: standard deviation of the noise of each replicate, [draws].
    """

    form: Form
    unit: tuple[float, ...]
    estimates: dict[str, Estimate]
    unclear: dict[str, str]
    spread: float
    points: int
    theta: Array
    draws: Array
    sizes: Array

    @property
    def freedom(self) -> int:
        """Degrees of freedom that the fit leaves."""
        return self.points - len(self.theta)

    def at(self, *inputs: float) -> Estimate:
        """The error expected at `inputs`, with the interval of the law itself."""
        return self._interval(inputs, np.zeros(len(self.draws)))

    def measurement(self, *inputs: float) -> Estimate:
        """The same with the interval of one more measurement there, which spreads about the law as the points do."""
        return self._interval(inputs, self.sizes * np.random.default_rng(1).normal(size=len(self.draws)))

    def _interval(self, inputs: Sequence[float], noise: Array) -> Estimate:
        x = np.array([inputs], float) / self.unit
        value = float(self.form.predict(self.theta, x)[0])
        drawn = np.array([self.form.predict(theta, x)[0] for theta in self.draws])
        low, high = _percentiles(np.log(drawn) + noise, self.freedom)
        return Estimate(value, math.exp(low), math.exp(high) if high < math.inf else math.inf)

    def describe(self) -> dict[str, object]:
        """The law as values that JSON holds."""
        return {
            "form": self.form.name,
            "unit": list(self.unit),
            "points": self.points,
            "spread": _finite(self.spread),
            "parameters": {name: estimate.describe() for name, estimate in self.estimates.items()},
            "not_identifiable": self.unclear,
        }


class Check(NamedTuple):
    """How a law did on a point that it was not fitted to."""

    predicted: Estimate  # of a measurement
    measured: float
    inside: bool  # the interval


def fit(
    form: Form, inputs: Sequence[Sequence[float]] | Sequence[float], errors: Sequence[float], draws: int = DRAWS
) -> Law | None:
    """Fit a law; None where there are fewer points than parameters.

    Args:
        form: of the law.
        inputs: of each point: a number, or as many as the form takes; above 0.
        errors: of each point; above 0.
        draws: replicates of the bootstrap.

    Raises:
        ValueError: an input or error is not above 0.
    """
    if len(errors) < len(form.parameters):
        return None
    y = np.array(errors, float)
    x = np.array(inputs, float).reshape(len(y), -1)
    if not (x > 0).all() or not (y > 0).all():
        raise ValueError("a power law takes inputs and errors above 0")
    unit = np.exp(np.log(x).mean(0))
    x = x / unit
    theta = _solve(form, x, y, _starts(form, x, y))
    predicted = form.predict(theta, x)
    freedom = len(y) - len(theta)
    spread = float(np.sqrt((np.log(y / predicted) ** 2).sum() / freedom)) if freedom else math.nan
    sizes, drawn = _bootstrap(form, x, predicted, theta, spread, draws) if freedom else (np.zeros(1), theta[None])
    estimates = {name: _estimate(form, name, theta, drawn, freedom) for name in form.parameters}
    unclear = {name: why for name in form.parameters if (why := _doubt(form, name, estimates[name], freedom))}
    return Law(form, tuple(unit.tolist()), estimates, unclear, spread, len(y), theta, drawn, sizes)


def check(law: Law, inputs: Sequence[float], measured: float) -> Check:
    """Compare a law with a measurement at `inputs` that was held out of its fit."""
    predicted = law.measurement(*inputs)
    return Check(predicted, measured, predicted.low <= measured <= predicted.high)


def _finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it: of an interval without bounds."""
    return value if math.isfinite(value) else None


def _starts(form: Form, x: Array, y: Array) -> list[Array]:
    """Where the search for the best parameters begins: linear fits of log(E - floor)."""
    starts = []
    for share in _FLOOR_SHARES if len(form.parameters) % 2 else (0.0,):
        floor = share * y.min()
        columns = np.hstack([np.ones((len(x), 1)), -np.log(x)])
        level, *exponents = np.linalg.lstsq(columns, np.log(y - floor), rcond=None)[0]
        pairs = [(level - math.log(form.inputs), exponent) for exponent in exponents]
        starts.append(np.array([*([floor] if len(form.parameters) % 2 else []), *sum(pairs, ())]))
    return starts


def _solve(form: Form, x: Array, y: Array, starts: Sequence[Array]) -> Array:
    """The parameters with the least squares of log(y / predicted)."""
    if form is POWER:
        return _solve_lines(x, y[None])[0]
    log_y = np.log(y)

    def residuals(theta: Array) -> Array:
        gaps: Array = np.log(form.predict(theta, x)) - log_y
        return gaps

    def jacobian(theta: Array) -> Array:
        slopes: Array = form.jacobian(theta, x) / form.predict(theta, x)[:, None]
        return slopes

    low = np.array([0.0, *[-50.0, -_STEEPEST] * form.inputs])
    high = np.array([y.max(), *[50.0, _STEEPEST] * form.inputs])
    found = [
        optimize.least_squares(residuals, np.clip(start, low, high), jacobian, (low, high), x_scale="jac")
        for start in starts
    ]
    best: Array = min(found, key=lambda one: one.cost).x
    return best


def _solve_lines(x: Array, many: Array) -> Array:
    """Of the form power, which is linear in logarithms: the parameters of each row of errors, [rows, 2]."""
    columns = np.hstack([np.ones_like(x), -np.log(x)])
    solved: Array = np.linalg.lstsq(columns, np.log(many).T, rcond=None)[0].T
    return solved


def _bootstrap(form: Form, x: Array, predicted: Array, theta: Array, spread: float, draws: int) -> tuple[Array, Array]:
    """Size of the noise [draws] and parameters [draws, p] of replicates; the same for the same data."""
    rng = np.random.default_rng(0)
    freedom = len(x) - len(theta)
    sizes = spread * np.sqrt(freedom / rng.chisquare(freedom, draws))
    many = predicted * np.exp(np.clip(sizes[:, None] * rng.normal(size=(draws, len(x))), -20, 20))
    if form is POWER:
        return sizes, _solve_lines(x, many)
    return sizes, np.stack([_solve(form, x, y, [theta]) for y in many])


def _percentiles(values: Array, freedom: int) -> tuple[float, float]:
    """The interval of bootstrap values; without bounds where there were no residuals to draw from."""
    if freedom < 1:
        return -math.inf, math.inf
    low, high = np.quantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


def _estimate(form: Form, name: str, theta: Array, draws: Array, freedom: int) -> Estimate:
    column = form.parameters.index(name)
    low, high = _percentiles(draws[:, column], freedom)
    found = Estimate(float(theta[column]), low, high)
    if name in _COEFFICIENTS[form.name]:
        return Estimate(*(math.exp(value) if value < math.inf else math.inf for value in found))
    return found


def _doubt(form: Form, name: str, found: Estimate, freedom: int) -> str:
    """Why a parameter is not identifiable, or nothing."""
    if freedom < 1:
        return "as many parameters as points"
    if name == "c":
        return "" if found.low > 1e-3 * found.value > 0 else "the points are as well explained without a floor"
    if name in _EXPONENTS[form.name]:
        if found.low <= 0 <= found.high:
            return "its interval includes 0"
        if found.high - found.low > 2 * abs(found.value):
            return f"its interval, {found.low:.2g} to {found.high:.2g}, is wider than twice its value"
    return ""
