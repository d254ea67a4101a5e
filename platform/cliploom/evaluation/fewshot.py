"""Few-shot probes, and how many examples a class zero-shot is worth (Radford et al. 2021, 3.1, figures 6 and 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cliploom.evaluation import metrics as measures
from cliploom.evaluation import probe
from cliploom.evaluation.intervals import Estimate, Z, of_variance
from cliploom.evaluation.probe import Labelled
from cliploom.evaluation.results import Measure
from cliploom.evaluation.suite import SHOTS

SEEDS = 3
_VALIDATION = 4  # examples a class that choose the penalty, at most


class Shot(NamedTuple):
    """What probes reach that see a few examples of each class."""

    examples: int  # a class
    estimate: Estimate  # over the draws
    chance: float
    drawn: list[float]  # of each draw of examples
    scarce: int  # classes that have fewer examples, and give all


def run(train: Labelled, test: Labelled, classes: int, metric: str) -> list[Shot]:
    """Probes on 1, 2, 4, 8 and 16 examples a class, each for several draws of them.

    The penalty is chosen as for the probe, on at most four further examples a class, as Zhou et al. (2022, "Learning to
    Prompt for Vision-Language Models", CoOp) do; they are no part of what the classifier is fitted on. A class that has
    no further example is not validated on; shots that leave none to any class are left out, and for the area under the
    curve those that leave some to one class alone. Draws are nested: the examples of fewer shots are among those of
    more.

    The interval covers the draw of the examples and that of the test samples.

    Args:
        train: to draw from; of single-label sets alone.
        test: to be measured.
        classes: how many there are.
        metric: of `metrics`.
    """
    sizes = np.bincount(train.truth, minlength=classes)
    found = []
    for examples in SHOTS:
        further = draw(train.truth, examples, 0)[1]  # at each draw as many of each class
        if not measures.measurable(metric, train.truth[further]):
            continue
        drawn = [_one(train, test, classes, metric, examples, seed) for seed in range(SEEDS)]
        estimates = [one.estimate for one in drawn]
        values = [one.value for one in estimates]
        scarce = int((sizes < examples).sum())
        found.append(Shot(examples, _pooled(estimates, len(test.truth)), drawn[0].chance, values, scarce))
    return found


def draw(truth: np.ndarray, examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sample numbers of `examples` of each class, and of at most four further ones, or as many as there are."""
    random = np.random.default_rng(seed)
    chosen, further = [], []
    for number in np.unique(truth):
        members = random.permutation(np.flatnonzero(truth == number))
        chosen.append(members[:examples])
        further.append(members[examples : examples + min(examples, _VALIDATION)])
    return np.concatenate(chosen), np.concatenate(further)


def worth(target: float, shots: Sequence[float], values: Sequence[float]) -> float:
    """How many examples a class reach `target`: linear between the logarithms of `shots` (figure 7).

    Below the first number of shots the first segment is drawn out; above the last the answer is infinite.

    Args:
        target: zero-shot's.
        shots: examples a class, increasing; two or more.
        values: reached with them.
    """
    logs = np.log(shots)
    if values[1] <= values[0] >= target:
        return float(shots[0])
    for number in range(1, len(values)):
        low, high = values[number - 1], values[number]
        if low < high >= target:
            part = (target - low) / (high - low)
            return math.exp(logs[number - 1] + part * (logs[number] - logs[number - 1]))
    return math.inf


def _one(train: Labelled, test: Labelled, classes: int, metric: str, examples: int, seed: int) -> Measure:
    chosen, further = draw(train.truth, examples, seed)
    seen, held = (Labelled(train.features[rows], train.truth[rows]) for rows in (chosen, further))
    l2, _ = probe.choose(seen, held, classes, metric)
    classifier = probe.fit(seen, classes, l2)
    return measures.of_scores(probe.score(classifier, test.features), test.truth, [metric])[0]


def _pooled(drawn: Sequence[Estimate], samples: int) -> Estimate:
    """The mean of several draws; its variance is that between them, and that of the test samples that they share."""
    values = np.array([one.value for one in drawn])
    between = values.var(ddof=1) / len(values)
    within = np.mean([((one.high - one.low) / (2 * Z)) ** 2 for one in drawn])
    return of_variance(float(values.mean()), float(between + within), samples)
