"""What is right of a sample: one class, or whichever of the classes its image shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cliploom.evaluation.datasets import Kind
from cliploom.evaluation.store import Features

_WRONG = "label names no class"


def checked(features: Features, kind: Kind, classes: int) -> Features:
    """The features with a cause for each sample whose label is missing or names none of the `classes`."""
    fault = _fault_of_many if kind == "multilabel" else _fault
    causes = [
        cause or fault(label, classes)
        for cause, label in zip(features.causes.tolist(), features.labels.tolist(), strict=True)
    ]
    return replace(features, causes=np.array(causes, np.str_))


def truth(features: Features, kind: Kind) -> np.ndarray:
    """The right classes of samples that are all usable: int64 [N]; of a multi-label set bool [N, C]."""
    if kind == "multilabel":
        return np.array([[digit == "1" for digit in label] for label in features.labels.tolist()], dtype=bool)
    return features.labels.astype(np.int64)


def _fault(label: str, classes: int) -> str:
    if not label:
        return "no label"
    return "" if label.isdecimal() and int(label) < classes else _WRONG


def _fault_of_many(label: str, classes: int) -> str:
    if not label:
        return "no label"
    return "" if len(label) == classes and set(label) <= {"0", "1"} else _WRONG
