from __future__ import annotations

import numpy as np

from cliploom.evaluation import labels
from cliploom.evaluation.store import Features

_WRONG = "label names no class"


def _features(given: list[str]) -> Features:
    count = len(given)
    return Features(
        keys=np.array([f"{n}" for n in range(count)]),
        labels=np.array(given, np.str_),
        causes=np.array([""] * count, np.str_),
        images=np.zeros((count, 2), np.float32),
        hidden=np.zeros((count, 2), np.float32),
        thumbnails=np.zeros((count, 32, 32, 3), np.uint8),
        captions=np.zeros(0, np.str_),
        owners=np.zeros(0, np.int64),
        texts=np.zeros((0, 2), np.float32),
        seconds=np.zeros(1),
    )


def test_samples_whose_label_names_no_class_get_a_cause() -> None:
    checked = labels.checked(_features(["0", "3", "4", "-1", "", "dog"]), "classification", classes=4)
    assert checked.causes.tolist() == ["", "", _WRONG, _WRONG, "no label", _WRONG]
    assert labels.truth(checked.usable(), "classification").tolist() == [0, 3]


def test_labels_of_several_classes_are_a_digit_each() -> None:
    checked = labels.checked(_features(["010", "000", "01", "", "01x", "2"]), "multilabel", classes=3)
    assert checked.causes.tolist() == ["", "", _WRONG, "no label", _WRONG, _WRONG]
    truth = labels.truth(checked.usable(), "multilabel")
    assert truth.tolist() == [[False, True, False], [False, False, False]]
