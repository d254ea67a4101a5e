"""Metrics of classification, with 95 % intervals and what answers drawn at random would reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

from cliploom.evaluation.intervals import Estimate, of_variance, share
from cliploom.evaluation.results import Measure
from cliploom.evaluation.suite import BINARY, MULTILABEL, RANKED

_LEVELS = 10  # of recall, above 0
_DRAWS = 100  # of the bootstrap
_SEED = 0

Precision = Callable[[np.ndarray, np.ndarray], float]


def of_scores(scores: np.ndarray, truth: np.ndarray, metrics: Sequence[str]) -> list[Measure]:
    """The metrics that follow from the scores of all classes.

    Args:
        scores: float [N, C].
        truth: int64 [N], the right class; or bool [N, C], of a multi-label set.
        metrics: to take; those that say nothing of so many classes are left out.
    """
    classes = scores.shape[1]
    found = []
    ranks = ranks_of(scores, truth) if truth.ndim == 1 else np.zeros(0, np.int64)
    for metric in metrics:
        if metric in RANKED:
            found += of_ranks(ranks, truth, classes, [metric])
        elif metric == BINARY and classes == 2:
            margin = scores[:, 1].astype(np.float64) - scores[:, 0]
            found.append(Measure(metric, roc_auc(margin, truth == 1), 0.5, len(truth)))
        elif metric in MULTILABEL:
            shown = truth if truth.ndim == 2 else truth[:, None] == np.arange(classes)
            estimate = mean_average_precision(scores, shown, _PRECISIONS[metric])
            found.append(Measure(metric, estimate, float(shown.mean(0)[shown.any(0)].mean()), len(truth)))
    return found


def measurable(metric: str, truth: np.ndarray) -> bool:
    """Whether a metric says anything of samples.

    None does of no samples, the area under the curve of one class alone, an average precision where nothing is shown.

    Args:
        metric: which.
        truth: as of `of_scores`.
    """
    if metric == BINARY:
        return len(np.unique(truth)) > 1
    return truth.size > 0 and (truth.ndim == 1 or bool(truth.any()))


def of_ranks(ranks: np.ndarray, truth: np.ndarray, classes: int, metrics: Sequence[str]) -> list[Measure]:
    """The metrics that follow from how many classes stand before each sample's own.

    `acc1` and `acc5` have Wilson intervals; `mean_acc1_acc5`, Kinetics' mean of both, and `mean_per_class_recall`,
    over the classes that have samples, have Wilson's at the effective sample size. What looks at five of fewer than
    five classes says nothing and is left out.

    Args:
        ranks: int64 [N], from 0.
        truth: int64 [N].
        classes: how many there are.
        metrics: to take.
    """
    sizes = np.bincount(truth, minlength=classes)
    found = []
    for metric in metrics:
        if metric == "acc1":
            found.append(Measure(metric, share(ranks < 1), 1 / classes, len(truth)))
        elif metric == "acc5" and classes >= 5:
            found.append(Measure(metric, share(ranks < 5), 5 / classes, len(truth)))
        elif metric == "mean_acc1_acc5" and classes >= 5:
            found.append(Measure(metric, share(((ranks < 1) + 1.0 * (ranks < 5)) / 2), 3 / classes, len(truth)))
        elif metric == "mean_per_class_recall":
            found.append(Measure(metric, share(ranks < 1, weights=1 / sizes[truth]), 1 / classes, len(truth)))
    return found


def ranks_of(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many classes stand before each sample's own, int64 [N]; of equal scores the lower class stands first."""
    own = np.take_along_axis(scores, truth[:, None], 1)
    before = np.arange(scores.shape[1]) < truth[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(1)


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> Estimate:
    """How likely a positive sample scores above a negative one, ties counting half.

    The variance is that of DeLong et al. (1988), "Comparing the areas under two or more correlated receiver operating
    characteristic curves"; Wilson's interval at the sample size with that variance keeps within 0 and 1.

    Args:
        scores: float [N].
        positive: bool [N]; both kinds must be there.

    Raises:
        ValueError: all samples are of one kind.
    """
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        raise ValueError("the area under the curve needs samples of both classes")
    together = rankdata(scores)
    above = (together[positive] - rankdata(scores[positive])) / zeros  # of each positive, negatives below it
    below = 1 - (together[~positive] - rankdata(scores[~positive])) / ones
    value = float(above.mean())
    fewest = min(ones, zeros)
    if fewest < 2:  # of one sample there is no variance to estimate, and it decides everything
        return of_variance(value, 0, fewest)
    variance = sum(float(part.var(ddof=1)) / len(part) for part in (above, below))
    return of_variance(value, variance, fewest if variance == 0 else ones + zeros)


def mean_average_precision(scores: np.ndarray, shown: np.ndarray, precision: Precision) -> Estimate:
    """The mean over classes of an average precision. The variance is that of a bootstrap over samples.

    Args:
        scores: float [N, C].
        shown: bool [N, C]; classes that no sample shows are left out.
        precision: of one class, from scores [N] and bool [N].

    Raises:
        ValueError: no sample shows any class.
    """
    random = np.random.default_rng(_SEED)
    draws = (random.integers(len(scores), size=len(scores)) for _ in range(_DRAWS))
    drawn = [_mean_precision(scores[rows], shown[rows], precision) for rows in draws if shown[rows].any()]
    return of_variance(_mean_precision(scores, shown, precision), float(np.var(drawn, ddof=1)), len(scores))


def eleven_point_precision(scores: np.ndarray, shown: np.ndarray) -> float:
    """Of one class: the mean over recalls 0, 0.1, ..., 1 of the highest precision at that recall or a higher one
    (Everingham et al. 2010, "The Pascal Visual Object Classes Challenge", 4.2)."""
    hits, precisions = _curve(scores, shown)
    best = np.maximum.accumulate(precisions[::-1])[::-1]
    needed = -(-np.arange(_LEVELS + 1) * hits[-1] // _LEVELS)  # hits at each level of recall, in whole numbers
    return float(best[np.searchsorted(hits, needed)].mean())


def average_precision(scores: np.ndarray, shown: np.ndarray) -> float:
    """Of one class: the precision at each sample that shows it, on average; not interpolated."""
    hits, precisions = _curve(scores, shown)
    return float(np.diff(hits, prepend=0) @ precisions / hits[-1])


def _curve(scores: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From high to low scores, equal ones together: how many samples so far show the class, and what share."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(order) - 1)
    hits = np.cumsum(shown[order])[ends]
    return hits, hits / (ends + 1)


def _mean_precision(scores: np.ndarray, shown: np.ndarray, precision: Precision) -> float:
    present = np.flatnonzero(shown.any(0))
    if not len(present):
        raise ValueError("no sample shows any class")
    return float(np.mean([precision(scores[:, c], shown[:, c]) for c in present]))


_PRECISIONS: dict[str, Precision] = dict(zip(MULTILABEL, (eleven_point_precision, average_precision), strict=True))
Scorer = Callable[[np.ndarray, np.ndarray], float]


def scorer(metric: str) -> Scorer:
    """A metric's value alone, of scores [N, C] and truth: what a sweep compares settings by."""

    def value(scores: np.ndarray, truth: np.ndarray) -> float:
        if metric in MULTILABEL:
            shown = truth if truth.ndim == 2 else truth[:, None] == np.arange(scores.shape[1])
            return _mean_precision(scores, shown, _PRECISIONS[metric])
        return of_scores(scores, truth, [metric])[0].estimate.value

    return value
