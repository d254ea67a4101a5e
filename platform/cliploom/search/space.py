"""The space of settings: dotted keys with choices or ranges, drawn from by trial number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cliploom.config import keys, nearest
from cliploom.errors import InputError
from cliploom.settings.search import Span

Value = float | int | str | bool
Settings = dict[str, Value]
Space = Mapping[str, Sequence[Value] | Span]


def check(space: Space) -> None:
    """Check that each key is a setting, and that it has values to draw.

    Raises:
        InputError: one is not, or has not.
    """
    known = [key for key, *_ in keys()]
    for key, domain in space.items():
        if key not in known:
            raise InputError(f"tune.space: there is no setting {key}{nearest(key, known)}")
        if not isinstance(domain, Span):
            if not domain:
                raise InputError(f"tune.space: {key} has no choices: give some, or leave it out")
        elif domain.low >= domain.high or (domain.log and domain.low <= 0):
            rule = "above 0, and low below high" if domain.log else "low below high"
            raise InputError(f"tune.space: {key} from {domain.low} to {domain.high} is no range: write numbers {rule}")


def draw(space: Space, seed: int, number: int) -> Settings:
    """The settings of random trial `number`: a function of space, seed and number."""
    return {key: at(domain, u) for (key, domain), u in zip(space.items(), _uniform(space, seed, number), strict=True)}


def at(domain: Sequence[Value] | Span, u: float) -> Value:
    """The value of a domain at `u` in [0, 1)."""
    if not isinstance(domain, Span):
        return domain[int(u * len(domain))]
    if domain.whole:
        low, high = (math.log(domain.low), math.log(domain.high + 1)) if domain.log else (domain.low, domain.high + 1)
        value = low + u * (high - low)
        return min(int(domain.high), int(math.exp(value) if domain.log else value))
    if domain.log:
        return float(domain.low * (domain.high / domain.low) ** u)
    return float(domain.low + u * (domain.high - domain.low))


def _uniform(space: Space, seed: int, number: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).random(len(space))
