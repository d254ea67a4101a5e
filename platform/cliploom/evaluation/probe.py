"""The linear probe: logistic regression on the image encoder's features (Radford et al. 2021, 3.2 and A.3).

The penalty is chosen on a validation split among 96 steps of an eighth of a decade from 1e-6 to 1e6, by the paper's
search: seven penalties two decades apart, then both sides of the best at half that distance, until an eighth is
reached. The classifier for the test split is then fitted on training and validation samples together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from cliploom.evaluation import metrics as measures
from cliploom.evaluation.logistic import Classifier, Regression
from cliploom.evaluation.results import Measure

STEPS, PER_DECADE, WEAKEST = 96, 8, -6
_COARSE = 16  # steps between the penalties that the search begins with
_VALIDATION = 5  # one of so many training samples of a class, where a data set has no validation split
_SEED = 0


class Labelled(NamedTuple):
    """Samples of a split."""

    features: np.ndarray  # float32 [N, D], of the image encoder
    truth: np.ndarray  # int64 [N], or bool [N, C] of a multi-label set


@dataclass(frozen=True)
class Probe:
    """A fitted probe and what it reaches on the test split."""

    l2: float
    tried: dict[float, float]  # penalty: the metric on the validation split
    classifier: Classifier
    measures: list[Measure]
    training: int  # samples that it was fitted on


def run(train: Labelled, validation: Labelled | None, test: Labelled, classes: int, wanted: Sequence[str]) -> Probe:
    """Choose the penalty, fit and measure.

    Args:
        train: at least two samples of one class.
        validation: where the data set has such a split; by default a fifth of each class of `train`.
        test: to be measured.
        classes: how many there are.
        wanted: metrics, of `metrics`; the first decides on the penalty.
    """
    whole = train if validation is None else Labelled(*map(np.concatenate, zip(train, validation, strict=True)))
    if validation is None:
        held = held_out(train.truth)
        train, validation = _rows(train, ~held), _rows(train, held)
    l2, tried = choose(train, validation, classes, wanted[0])
    classifier = fit(whole, classes, l2)
    found = measures.of_scores(score(classifier, test.features), test.truth, wanted)
    return Probe(l2, tried, classifier, found, len(whole.features))


def choose(train: Labelled, validation: Labelled, classes: int, metric: str) -> tuple[float, dict[float, float]]:
    """The penalty that is best on `validation`, and the metric there for each that was tried."""
    regression, value = _regression(train, classes), measures.scorer(metric)

    def reached(step: int) -> float:
        classifier = regression.fit(penalty(step))
        return value(score(classifier, validation.features), validation.truth)

    best, tried = search(reached)
    return penalty(best), {penalty(step): tried[step] for step in sorted(tried)}


def search(reached: Callable[[int], float]) -> tuple[int, dict[int, float]]:
    """The step in 0..96 at which `reached` is highest, by the paper's search, and what was reached where it looked.

    Of equal ones it takes the strongest penalty. It looks at fifteen steps at most, from strong to weak ones, so that
    a fit can start from one that is near.
    """
    tried = {step: reached(step) for step in range(STEPS, -1, -_COARSE)}
    distance = _COARSE
    while True:
        best = max(tried, key=lambda step: (tried[step], step))
        distance //= 2
        if not distance:
            return best, tried
        for step in (best + distance, best - distance):
            if 0 <= step <= STEPS:
                tried[step] = reached(step)


def penalty(step: int) -> float:
    """The penalty at a step of the grid."""
    return float(10 ** (step / PER_DECADE + WEAKEST))


def fit(train: Labelled, classes: int, l2: float) -> Classifier:
    """The classifier for a penalty."""
    return _regression(train, classes).fit(l2)


def score(classifier: Classifier, features: np.ndarray) -> np.ndarray:
    """Features [N, D] -> scores float32 [N, C]."""
    return classifier.scores(torch.from_numpy(features).to(classifier.weight.device)).cpu().numpy()


def held_out(truth: np.ndarray) -> np.ndarray:
    """Which training samples validate, bool [N]: a fifth of each class at random; a class of one sample trains."""
    random = np.random.default_rng(_SEED)
    strata = [np.arange(len(truth))] if truth.ndim == 2 else [np.flatnonzero(truth == c) for c in np.unique(truth)]
    held = np.zeros(len(truth), dtype=bool)
    for members in strata:
        count = min(max(1, round(len(members) / _VALIDATION)), len(members) - 1)
        held[random.permutation(members)[:count]] = True
    return held


def _regression(train: Labelled, classes: int) -> Regression:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, truth = (torch.from_numpy(part).to(device) for part in train)
    return Regression(features, truth, classes)


def _rows(samples: Labelled, chosen: np.ndarray) -> Labelled:
    return Labelled(samples.features[chosen], samples.truth[chosen])
