"""Zero-shot classification: an image's class is the one whose prompt ensemble is nearest (Radford et al. 2021, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cliploom.evaluation.intervals import share
from cliploom.evaluation.ranks import first_hits
from cliploom.evaluation.results import Measure
from cliploom.evaluation.store import Features


def checked(features: Features, classes: int) -> Features:
    """The features with a cause for each sample whose label is missing or names none of the `classes`."""
    return replace(
        features,
        causes=np.array(
            [
                cause or _fault(label, classes)
                for cause, label in zip(features.causes.tolist(), features.labels.tolist(), strict=True)
            ],
            np.str_,
        ),
    )


def labels(features: Features) -> np.ndarray:
    """The class numbers, int64 [N], of samples that are all usable."""
    return features.labels.astype(np.int64)


def rank(features: Features, classes: np.ndarray) -> np.ndarray:
    """How many classes each usable sample is nearer to than to its own, int64 [N].

    Args:
        features: of N samples.
        classes: float32 [C, D], embeddings of the classes' prompt ensembles.
    """
    truth = labels(features)
    return first_hits(features.images, classes, np.arange(len(truth)), truth)


def measure(ranks: np.ndarray, truth: np.ndarray, classes: int, metrics: Sequence[str]) -> list[Measure]:
    """The metrics that follow from each sample's rank and class number, int64 [N].

    `acc1` and `acc5` have Wilson intervals; `mean_per_class_recall`, over the classes that have samples, has Wilson's
    at the effective sample size of its weights. `acc5` of fewer than five classes says nothing and is left out.
    """
    sizes = np.bincount(truth, minlength=classes)
    found = []
    for metric in metrics:
        if metric == "acc1":
            found.append(Measure(metric, share(ranks < 1), 1 / classes, len(truth)))
        elif metric == "acc5" and classes >= 5:
            found.append(Measure(metric, share(ranks < 5), 5 / classes, len(truth)))
        elif metric == "mean_per_class_recall":
            found.append(Measure(metric, share(ranks < 1, weights=1 / sizes[truth]), 1 / classes, len(truth)))
    return found


def _fault(label: str, classes: int) -> str:
    if not label:
        return "no label"
    return "" if label.isdecimal() and int(label) < classes else "label names no class"
