"""What test samples that the training data hold as well do to a result (Radford et al. 2021, section 5, figure 17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from cliploom.evaluation.intervals import Estimate

CONFIDENCE = 0.995  # of the interval, as in the paper


@dataclass(frozen=True)
class Overlap:
    """Zero-shot accuracy on the samples of a data set that training holds, on the clean rest, and on all."""

    dataset: str
    samples: int
    overlapping: int
    all: float
    clean: float | None  # None where every sample overlaps
    overlap: Estimate | None  # with the 99.5 % interval; None where none does
    p: float | None  # that so many are right by chance, were accuracy as on the clean samples; one-tailed
    corrected: float | None  # the same times the number of data sets tested (Bonferroni), at most 1

    @property
    def share(self) -> float:
        """Of the samples, how many overlap."""
        return self.overlapping / self.samples

    @property
    def gain(self) -> float | None:
        """What the overlap adds to the accuracy: that on all less that on the clean samples."""
        return None if self.clean is None else self.all - self.clean


def analyse(dataset: str, right: np.ndarray, overlapping: np.ndarray) -> Overlap:
    """Compare the overlapping samples with the others.

    The interval is Clopper and Pearson's (1934); the test is binomial, its null hypothesis the accuracy on the clean
    samples.

    Args:
        dataset: its name.
        right: bool [N], whether the model's first answer is right.
        overlapping: bool [N], whether training holds the sample.
    """
    count, hits = int(overlapping.sum()), int(right[overlapping].sum())
    clean = float(right[~overlapping].mean()) if count < len(right) else None
    estimate = p = None
    if count:
        interval = binomtest(hits, count).proportion_ci(CONFIDENCE, method="exact")
        estimate = Estimate(hits / count, float(interval.low), float(interval.high))
        p = None if clean is None else float(binomtest(hits, count, clean, alternative="greater").pvalue)
    return Overlap(dataset, len(right), count, float(right.mean()), clean, estimate, p, p)


def bonferroni(found: Sequence[Overlap]) -> list[Overlap]:
    """The same with p corrected for the number of tests."""
    tests = sum(one.p is not None for one in found)
    return [replace(one, corrected=None if one.p is None else min(1.0, one.p * tests)) for one in found]
