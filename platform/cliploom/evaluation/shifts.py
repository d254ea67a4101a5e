"""Each distribution shift of a suite beside the data set that it is a shift of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cliploom.errors import InputError
from cliploom.evaluation import findings, labels, probe, robustness
from cliploom.evaluation.datasets import Dataset
from cliploom.evaluation.findings import Finding
from cliploom.evaluation.intervals import Estimate, share
from cliploom.evaluation.metrics import ranks_of
from cliploom.evaluation.robustness import Groups, References, Shift
from cliploom.evaluation.store import FeatureStore

ZEROSHOT, PROBE = "zero-shot", "linear probe"


def check(shift: Dataset, base: Dataset) -> Groups:
    """The base's classes that the shift's stand for.

    Raises:
        InputError: one of them is none of the base's, or of one of the data sets a sample has no one class.
    """
    for one in (shift, base):
        if one.kind != "classification":
            raise InputError(f"data set {one.name} is made for {one.kind}: shifts are of classification")
    try:
        return robustness.groups(base.classnames, shift.stands_for or [(name,) for name in shift.classnames])
    except ValueError as error:
        raise InputError(
            f"data set {shift.name}: {base.name} {error}; put the names of {base.name}'s classes that each class of "
            f"{shift.name} stands for into {shift.uri}/base_classnames.txt, parted by tabs"
        ) from None


def find(
    shift: Finding, base: Finding, store: FeatureStore, references: References, max_bad_fraction: float
) -> list[Shift]:
    """Zero-shot, and the base's linear probe where there is one, on the base and on the shift.

    Zero-shot takes the shift's own class names and prompts; the probe takes the highest score of the base's classes
    that a class of the shift stands for. Accuracy on the base is that on samples of the shift's classes, among these
    classes alone.
    """
    grouped = check(shift.dataset, base.dataset)
    on_base, on_shift = (
        findings.load(one.dataset, one.dataset.shards, store, max_bad_fraction).usable for one in (base, shift)
    )
    truths = [labels.truth(one, "classification") for one in (on_base, on_shift)]
    texts = [store.load(findings.prompts(one.dataset).digest).texts for one in (base, shift)]
    whole = len(grouped) == len(base.dataset.classnames)  # each stands for one, since none is empty or stands twice
    line = robustness.line_of(references, base.dataset.name, shift.dataset.name, whole)

    def compare(classifier: str, base_scores: np.ndarray, shift_scores: np.ndarray) -> Shift:
        used, group = robustness.restricted(truths[0], grouped)
        one = _accuracy(robustness.pooled(base_scores[used], grouped), group)
        other = _accuracy(shift_scores, truths[1])
        effective = robustness.effective(one, other, line) if line else None
        return Shift(base.dataset.name, shift.dataset.name, classifier, one, other, line, effective)

    found = [compare(ZEROSHOT, on_base.images @ texts[0].T, on_shift.images @ texts[1].T)]
    if base.probe:
        scores = [probe.score(base.probe.classifier, one.hidden) for one in (on_base, on_shift)]
        found.append(compare(PROBE, scores[0], robustness.pooled(scores[1], grouped)))
    return found


def means(shifts: Sequence[Shift]) -> dict[str, Estimate]:
    """The mean effective robustness over shifts, of each kind of classifier that has one."""
    kinds = dict.fromkeys(one.classifier for one in shifts)
    values = {kind: [one.effective for one in shifts if one.classifier == kind and one.effective] for kind in kinds}
    return {kind: robustness.mean(found) for kind, found in values.items() if found}


def _accuracy(scores: np.ndarray, truth: np.ndarray) -> Estimate:
    return share(ranks_of(scores, truth) < 1)
