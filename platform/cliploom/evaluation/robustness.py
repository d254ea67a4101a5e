"""Robustness to natural distribution shift (Taori et al. 2020, "Measuring robustness to natural distribution shifts in
image classification"; Radford et al. 2021, 3.3): how much better a model does on a shift than its accuracy on the data
set that it is a shift of would let one expect, given how other models fare on both.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from cliploom import storage
from cliploom.errors import InputError, StorageError
from cliploom.evaluation.intervals import Estimate, Z

_LEAST = 3  # reference models of a line
_EDGE = 1e-4  # accuracies of 0 and 1 have no logit

Groups = Sequence[np.ndarray]  # for each class of the shift, the classes of the base that it stands for
References = Mapping[str, Mapping[str, float]]  # model: data set: accuracy


@dataclass(frozen=True)
class Line:
    """The accuracy on a shift to expect, a straight line between logits, fitted to reference models."""

    slope: float
    intercept: float
    points: tuple[tuple[float, float], ...]  # accuracies of the reference models
    centre: float  # mean logit of their accuracies on the base
    spread: float  # sum of squares about it
    residual: float  # variance about the line

    def expected(self, base: float) -> float:
        """The accuracy on the shift of a model with this accuracy on the base."""
        return float(expit(self.intercept + self.slope * _logit(base)))

    def variance(self, base: Estimate) -> float:
        """Of `expected`: that of the line and of the base's accuracy, carried through both logits."""
        at = _logit(base.value)
        line = self.residual * (1 / len(self.points) + (at - self.centre) ** 2 / self.spread)
        of_base = ((_logit(base.high) - _logit(base.low)) / (2 * Z)) ** 2
        expected = self.expected(base.value)
        return float((expected * (1 - expected)) ** 2 * (line + self.slope**2 * of_base))


class Shift(NamedTuple):
    """One classifier on a data set and on a shift of it."""

    base_name: str
    shift_name: str
    classifier: str  # zero-shot, or linear probe on the base
    base: Estimate  # accuracy on the shift's classes alone
    shift: Estimate
    line: Line | None
    effective: Estimate | None  # accuracy on the shift beyond the expected; between -1 and 1


def groups(base: Sequence[str], stands_for: Sequence[Sequence[str]]) -> Groups:
    """The numbers of the base's classes that each of the shift's stands for.

    Args:
        base: its class names.
        stands_for: for each class of the shift, the names of the base's classes that it is, or is above.

    Raises:
        ValueError: names the first that the base has not got, or that two classes of the shift stand for.
    """
    numbers = {name.casefold(): number for number, name in enumerate(base)}
    used = set[str]()
    for name in (name for names in stands_for for name in names):
        if name.casefold() not in numbers:
            raise ValueError(f"has no class {name}")
        if name.casefold() in used:
            raise ValueError(f"has a class {name} that two classes stand for")
        used.add(name.casefold())
    return [np.array([numbers[name.casefold()] for name in names]) for names in stands_for]


def pooled(scores: np.ndarray, grouped: Groups) -> np.ndarray:
    """Scores of the base's classes [N, C] as scores of groups [N, G]: the highest of each (Radford et al., 3.3)."""
    return np.stack([scores[:, members].max(1) for members in grouped], axis=1)


def restricted(truth: np.ndarray, grouped: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Which samples of the base are of a grouped class, bool [N], and the group of each of these, int64."""
    group = np.full(max(int(truth.max()), *(int(members.max()) for members in grouped)) + 1, -1)
    for number, members in enumerate(grouped):
        group[members] = number
    found = group[truth]
    return found >= 0, found[found >= 0]


def fit(base: Sequence[float], shift: Sequence[float]) -> Line:
    """The least-squares line through the logits of reference models' accuracies.

    Raises:
        ValueError: fewer than three models, or all of one accuracy on the base.
    """
    x, y = (np.array([_logit(value) for value in values]) for values in (base, shift))
    spread = float(np.square(x - x.mean()).sum())
    if len(x) < _LEAST or spread == 0:
        raise ValueError(f"a line needs {_LEAST} models or more, of different accuracies")
    slope = float((x - x.mean()) @ (y - y.mean())) / spread
    intercept = float(y.mean() - slope * x.mean())
    residual = float(np.square(y - intercept - slope * x).sum()) / (len(x) - 2)
    points = tuple(zip(map(float, base), map(float, shift), strict=True))
    return Line(slope, intercept, points, float(x.mean()), spread, residual)


def effective(base: Estimate, shift: Estimate, line: Line) -> Estimate:
    """Effective robustness: accuracy on the shift beyond the line, with a normal 95 % interval.

    It covers the test samples of both sets and the line's own uncertainty.
    """
    value = shift.value - line.expected(base.value)
    half = Z * math.sqrt(((shift.high - shift.low) / (2 * Z)) ** 2 + line.variance(base))
    return Estimate(value, value - half, value + half)


def mean(values: Sequence[Estimate]) -> Estimate:
    """The mean over several shifts, with a normal 95 % interval as if they were independent."""
    value = float(np.mean([one.value for one in values]))
    half = math.sqrt(sum(((one.high - one.low) / 2) ** 2 for one in values)) / len(values)
    return Estimate(value, value - half, value + half)


def read(uri: str) -> References:
    """Accuracies of reference models: a CSV with a column `model`, and one a data set with shares between 0 and 1.

    A column `BASE/SHIFT` is the accuracy on BASE's samples of SHIFT's classes, among these alone, as a model under
    evaluation has it; a column `BASE` serves shifts that have all of BASE's classes, one to one. A cell may be empty.

    Raises:
        InputError: it is no such file; names the cell.
    """
    try:
        text = storage.read(uri).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"evaluate.references: there is no {uri}") from None
    except (StorageError, UnicodeDecodeError) as error:
        raise InputError(f"evaluate.references: {uri} can't be read: {error}") from None
    reader = csv.DictReader(io.StringIO(text))
    if "model" not in (reader.fieldnames or ()):
        raise InputError(f"evaluate.references: {uri} has no column `model`")
    found = {}
    for row in reader:
        model = row.pop("model")
        found[model] = {name: _share(uri, model, name, text) for name, text in row.items() if name and text}
    return found


def line_of(references: References, base: str, shift: str, whole: bool) -> Line | None:
    """The line of the reference models that have both accuracies; None where they are too few.

    Args:
        references: from `read`.
        base: a data set.
        shift: of it.
        whole: whether the shift has all of the base's classes, one to one: only then is accuracy on the base that on
            the shift's classes, as a model under evaluation has it. Fewer classes are told apart more easily.
    """
    pairs = [
        (row.get(f"{base}/{shift}", row.get(base) if whole else None), row.get(shift)) for row in references.values()
    ]
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    if len({x for x, _ in both}) < _LEAST:
        return None
    return fit([x for x, _ in both], [y for _, y in both])


def _share(uri: str, model: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"evaluate.references: {uri} has {text!r} for {model} on {name}; it should be between 0 and 1")
    return value


def _logit(share: float) -> float:
    return float(logit(min(max(share, _EDGE), 1 - _EDGE)))
