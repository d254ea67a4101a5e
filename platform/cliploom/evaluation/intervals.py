"""95 % confidence intervals of shares: of samples, of weighted samples, and of samples that come in clusters."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

CONFIDENCE = 0.95
Z = float(norm.ppf((1 + CONFIDENCE) / 2))  # standard errors to either side


class Estimate(NamedTuple):
    """A share and its 95 % interval."""

    value: float
    low: float
    high: float


def share(hits: ArrayLike, weights: ArrayLike | None = None, clusters: ArrayLike | None = None) -> Estimate:
    """The (weighted) share of hits, with Wilson's score interval at the effective sample size.

    For plain samples it is Wilson's interval (1927). Weights (a mean per class is a share whose samples weigh 1 / size
    of their class) and clusters (captions of one image) change the variance of the share: it is linearised as in
    survey statistics, and the sample size at which a plain share has that variance, at most the true one, is put into
    Wilson's formula (Korn & Graubard 1998; Dean & Pagano 2015). Where all samples agree there is no variance to
    estimate, and Kish's effective size stands in.

    Args:
        hits: bool [N], or float [N] of partial hits between 0 and 1.
        weights: float [N], positive; equal by default.
        clusters: int [N], which samples belong together; each alone by default.

    Raises:
        ValueError: no samples.
    """
    x = np.asarray(hits, dtype=np.float64)
    if x.size == 0:
        raise ValueError("no samples to take a share of")
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    value = float(min(w @ x / w.sum(), 1.0))
    w = w / w.sum()
    squares = float(np.square(_totals(w, clusters)).sum())
    variance = float(np.square(_totals(w * (x - value), clusters)).sum())
    return wilson(value, 1 / squares) if (x == x[0]).all() else of_variance(value, variance, x.size)


def of_variance(value: float, variance: float, most: float) -> Estimate:
    """Wilson's interval at the sample size, at most `most`, at which a plain share would have this variance."""
    spread = value * (1 - value)
    return wilson(value, min(spread / variance, most) if variance > 0 and spread > 0 else most)


def wilson(value: float, size: float) -> Estimate:
    """Wilson's score interval of a share `value` of `size` samples, which may be fractional."""
    z = Z
    centre = (value + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * math.sqrt(value * (1 - value) / size + z**2 / (4 * size**2))
    return Estimate(value, min(value, max(0.0, centre - half)), max(value, min(1.0, centre + half)))


def _totals(values: np.ndarray, clusters: ArrayLike | None) -> np.ndarray:
    """The sum of `values` in each cluster."""
    if clusters is None:
        return values
    _, number = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(number, weights=values)
