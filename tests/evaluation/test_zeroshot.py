from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from cliploom.evaluation import zeroshot
from cliploom.evaluation.store import Features
from cliploom.evaluation.suite import METRICS

_ALL = METRICS["zeroshot_classification"]


def _features(images: np.ndarray, labels: list[str]) -> Features:
    count, width = images.shape
    return Features(
        keys=np.array([f"{n}" for n in range(count)]),
        labels=np.array(labels, np.str_),
        causes=np.array([""] * count, np.str_),
        images=images,
        captions=np.zeros(0, np.str_),
        owners=np.zeros(0, np.int64),
        texts=np.zeros((0, width), np.float32),
        seconds=np.zeros(1),
    )


def _normalised(random: np.random.Generator, count: int, width: int = 6) -> np.ndarray:
    rows = random.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(6, 12))
def test_metrics_are_those_of_scikit_learn(seed: int, samples: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    images, texts = _normalised(random, samples), _normalised(random, classes)
    truth = random.integers(0, classes - 1, samples)  # the last class has no sample
    ranks = zeroshot.rank(_features(images, [str(t) for t in truth]), texts)
    found = {m.metric: m for m in zeroshot.measure(ranks, truth, classes, _ALL)}
    scores = images @ texts.T
    expected = {
        "acc1": top_k_accuracy_score(truth, scores, k=1, labels=range(classes)),
        "acc5": top_k_accuracy_score(truth, scores, k=5, labels=range(classes)),
        "mean_per_class_recall": balanced_accuracy_score(truth, scores.argmax(1)),
    }
    assert {name: m.estimate.value for name, m in found.items()} == pytest.approx(expected)
    interval = binomtest(round(expected["acc1"] * samples), samples).proportion_ci(method="wilson")
    assert found["acc1"].estimate[1:] == pytest.approx((interval.low, interval.high))
    assert [found[name].chance for name in _ALL] == pytest.approx([1 / classes, 5 / classes, 1 / classes])
    assert {m.samples for m in found.values()} == {samples}


def test_acc5_of_four_classes_is_left_out() -> None:
    found = zeroshot.measure(np.array([0, 1, 2]), np.array([0, 1, 2]), 4, _ALL)
    assert [m.metric for m in found] == ["acc1", "mean_per_class_recall"]


def test_samples_whose_label_names_no_class_get_a_cause() -> None:
    features = _features(np.zeros((6, 2), np.float32), ["0", "3", "4", "-1", "", "dog"])
    checked = zeroshot.checked(features, classes=4)
    wrong = "label names no class"
    assert checked.causes.tolist() == ["", "", wrong, wrong, "no label", wrong]
    assert zeroshot.labels(checked.usable()).tolist() == [0, 3]
