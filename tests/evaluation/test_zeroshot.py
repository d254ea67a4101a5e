from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, top_k_accuracy_score

from cliploom.evaluation import metrics, zeroshot
from cliploom.evaluation.suite import DEFAULTS

_ALL = DEFAULTS["zeroshot_classification"]


def _normalised(random: np.random.Generator, count: int, width: int = 6) -> np.ndarray:
    rows = random.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(6, 12))
def test_metrics_are_those_of_scikit_learn(seed: int, samples: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    images, texts = _normalised(random, samples), _normalised(random, classes)
    truth = random.integers(0, classes - 1, samples)  # the last class has no sample
    found = {m.metric: m for m in zeroshot.measure(images, truth, texts, _ALL)}
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
    found = metrics.of_ranks(np.array([0, 1, 2]), np.array([0, 1, 2]), 4, _ALL)
    assert [m.metric for m in found] == ["acc1", "mean_per_class_recall"]


def test_two_classes_have_an_area_under_the_curve() -> None:
    random = np.random.default_rng(0)
    images, texts, truth = _normalised(random, 50), _normalised(random, 2), np.arange(50) % 2
    found = zeroshot.measure(images, truth, texts, ["roc_auc", "acc1"])
    scores = images @ texts.T
    assert [m.metric for m in found] == ["roc_auc", "acc1"]
    assert found[0].estimate.value == pytest.approx(roc_auc_score(truth, scores[:, 1] - scores[:, 0]))
