from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    precision_recall_curve,
    roc_auc_score,
    top_k_accuracy_score,
)

from cliploom.evaluation import metrics
from cliploom.evaluation.intervals import wilson


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(6, 12))
def test_ranked_metrics_are_those_of_scikit_learn(seed: int, samples: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(size=(samples, classes)).astype(np.float32)
    truth = random.integers(0, classes - 1, samples)  # the last class has no sample
    found = {m.metric: m for m in metrics.of_scores(scores, truth, metrics.RANKED)}
    top = [top_k_accuracy_score(truth, scores, k=k, labels=range(classes)) for k in (1, 5)]
    expected = {
        "acc1": top[0],
        "acc5": top[1],
        "mean_acc1_acc5": sum(top) / 2,
        "mean_per_class_recall": balanced_accuracy_score(truth, scores.argmax(1)),
    }
    assert {name: m.estimate.value for name, m in found.items()} == pytest.approx(expected)
    assert all(m.estimate.low <= m.estimate.value <= m.estimate.high for m in found.values())
    assert found["mean_acc1_acc5"].chance == pytest.approx(3 / classes)


def test_of_equal_scores_the_lower_class_stands_first() -> None:
    scores = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert metrics.ranks_of(scores, np.array([0, 1, 2])).tolist() == [0, 1, 2]


@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.integers(2, 10))
def test_roc_auc_is_that_of_scikit_learn_ties_included(seed: int, samples: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    positive = random.random(samples) < 0.4
    positive[:2] = [True, False]
    scores = random.integers(0, levels, samples).astype(float)
    found = metrics.roc_auc(scores, positive)
    assert found.value == pytest.approx(roc_auc_score(positive, scores))
    assert 0 <= found.low <= found.value <= found.high <= 1
    two = np.stack([np.zeros(samples), scores], 1)
    assert metrics.of_scores(two, positive.astype(int), ["roc_auc"])[0].estimate == found


def test_roc_aucs_interval_covers_the_truth_in_about_95_of_100_draws() -> None:
    random = np.random.default_rng(0)
    truth = 0.760250  # of normal scores one standard deviation apart: Phi(1 / sqrt(2))
    covered = []
    for _ in range(500):
        positive = np.arange(150) < 60
        found = metrics.roc_auc(random.normal(size=150) + positive, positive)
        covered.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("ones", [1, 149])
def test_roc_auc_of_one_sample_of_a_class_is_as_unsure_as_one_answer(ones: int) -> None:
    random = np.random.default_rng(0)
    truth = 0.760250
    covered = []
    for _ in range(200):
        positive = np.arange(150) < ones
        found = metrics.roc_auc(random.normal(size=150) + positive, positive)
        assert found == wilson(found.value, 1)
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) >= 0.95


def _eleven_points(scores: np.ndarray, shown: np.ndarray) -> float:
    precision, recall = (part[:-1] for part in precision_recall_curve(shown, scores)[:2])  # less the point it adds
    reached = [max(precision[np.round(recall * shown.sum()) >= level * shown.sum() / 10 - 1e-9]) for level in range(11)]
    return float(np.mean(reached))


@given(st.integers(0, 2**32 - 1), st.integers(2, 50), st.integers(2, 20))
def test_average_precision_is_that_of_scikit_learns_curve(seed: int, samples: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    shown = random.random(samples) < 0.3
    shown[0] = True
    scores = random.integers(0, levels, samples).astype(float)
    assert metrics.eleven_point_precision(scores, shown) == pytest.approx(_eleven_points(scores, shown))
    assert metrics.average_precision(scores, shown) == pytest.approx(average_precision_score(shown, scores))


def test_mean_average_precision_leaves_out_classes_that_no_sample_shows() -> None:
    random = np.random.default_rng(0)
    shown = random.random((80, 4)) < 0.2
    shown[:, 2] = False
    scores = random.normal(size=(80, 4)) + shown
    (found,) = metrics.of_scores(scores, shown, ["mean_average_precision_11point"])
    expected = np.mean([_eleven_points(scores[:, c], shown[:, c]) for c in (0, 1, 3)])
    assert found.estimate.value == pytest.approx(expected)
    assert found.estimate.low < expected < found.estimate.high
    assert found.chance == pytest.approx(shown[:, [0, 1, 3]].mean())


def test_a_perfect_ranking_has_precision_one() -> None:
    for precision in (metrics.average_precision, metrics.eleven_point_precision):
        assert precision(np.array([3.0, 2.0, 1.0]), np.array([True, True, False])) == 1
