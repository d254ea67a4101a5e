"""Zero-shot classification: an image's class is the one whose prompt ensemble is nearest (Radford et al. 2021, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cliploom.evaluation import metrics as measures
from cliploom.evaluation.ranks import first_hits
from cliploom.evaluation.results import Measure
from cliploom.evaluation.suite import RANKED


def rank(images: np.ndarray, truth: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """How many classes each sample is nearer to than to its own, int64 [N].

    Args:
        images: float32 [N, D], normalised.
        truth: int64 [N].
        classes: float32 [C, D], embeddings of the classes' prompt ensembles.
    """
    return first_hits(images, classes, np.arange(len(truth)), truth)


def measure(images: np.ndarray, truth: np.ndarray, classes: np.ndarray, wanted: Sequence[str]) -> list[Measure]:
    """The metrics of images whose scores are the cosines with each class.

    Args:
        images: float32 [N, D], normalised.
        truth: int64 [N], or bool [N, C] of a multi-label set.
        classes: float32 [C, D], embeddings of the classes' prompt ensembles.
        wanted: metrics, of `metrics`.
    """
    if truth.ndim == 1 and set(wanted) <= set(RANKED):  # label sets may be large: never all scores at once
        return measures.of_ranks(rank(images, truth, classes), truth, len(classes), wanted)
    return measures.of_scores(images @ classes.T, truth, wanted)
