from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from cliploom.evaluation.logistic import Regression

_TIGHT = 1e-10


def _samples(seed: int, count: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes that overlap, features of very different spread with a common offset."""
    random = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), random.integers(0, classes, count - classes)])
    centres = random.normal(size=(classes, width))
    features = (centres[truth] + 1.5 * random.normal(size=(count, width))) * np.logspace(-2, 1, width) + 3
    return features, truth


def _sklearn(l2: float) -> LogisticRegression:
    """By Newton's method: scikit-learn's L-BFGS stops where probabilities are up to 4e-5 from those of the optimum."""
    return LogisticRegression(C=1 / l2, solver="newton-cholesky", max_iter=1000, tol=1e-10)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("l2", [1e-2, 1.0, 1e4])
def test_the_optimum_is_scikit_learns(classes: int, l2: float) -> None:
    features, truth = _samples(classes, 120, 6, classes)
    expected = _sklearn(l2).fit(features, truth)
    found = Regression(torch.from_numpy(features), torch.from_numpy(truth), classes).fit(l2, _TIGHT)
    scores = found.scores(torch.from_numpy(features))
    np.testing.assert_allclose(scores.softmax(1), expected.predict_proba(features), atol=1e-6)
    if classes > 2:
        centred = found.weight - found.weight.mean(0)
        np.testing.assert_allclose(centred, expected.coef_, atol=1e-5 * np.abs(expected.coef_).max())


def test_classes_that_do_not_exclude_each_other_are_fitted_one_by_one() -> None:
    features, _ = _samples(0, 150, 5, 3)
    random = np.random.default_rng(1)
    shown = (features @ random.normal(size=(5, 4)) + random.normal(size=(150, 4)) * 5) > 10
    expected = OneVsRestClassifier(_sklearn(0.5)).fit(features, shown)
    found = Regression(torch.from_numpy(features), torch.from_numpy(shown), 4).fit(0.5, _TIGHT)
    probabilities = found.scores(torch.from_numpy(features)).sigmoid()
    np.testing.assert_allclose(probabilities, expected.predict_proba(features), atol=1e-6)


def test_fewer_samples_than_features() -> None:
    features, truth = _samples(5, 12, 40, 3)
    expected = _sklearn(0.1).fit(features, truth)
    found = Regression(torch.from_numpy(features), torch.from_numpy(truth), 3).fit(0.1, _TIGHT)
    fresh = _samples(6, 50, 40, 3)[0]
    probabilities = found.scores(torch.from_numpy(fresh)).softmax(1)
    np.testing.assert_allclose(probabilities, expected.predict_proba(fresh), atol=1e-5)


def test_where_a_fit_starts_does_not_move_the_optimum() -> None:
    features, truth = (torch.from_numpy(part) for part in _samples(2, 100, 5, 4))
    alone = Regression(features, truth, 4).fit(0.1, _TIGHT)
    regression = Regression(features, truth, 4)
    for l2 in (1e4, 1e2, 1.0):
        regression.fit(l2)
    torch.testing.assert_close(regression.fit(0.1, _TIGHT).weight, alone.weight, atol=1e-5, rtol=1e-5)


def test_single_precision_predicts_as_double() -> None:
    features, truth = _samples(3, 400, 20, 5)
    single, double = (
        Regression(torch.from_numpy(features).to(dtype), torch.from_numpy(truth), 5).fit(0.01)
        for dtype in (torch.float32, torch.float64)
    )
    scores = [one.scores(torch.from_numpy(features)) for one in (single, double)]
    assert (scores[0].argmax(1) == scores[1].argmax(1)).float().mean() > 0.99


def test_a_class_without_samples_has_a_score_and_is_never_likeliest() -> None:
    features, truth = _samples(4, 60, 4, 3)
    found = Regression(torch.from_numpy(features), torch.from_numpy(truth), 5).fit(1.0)
    assert set(found.scores(torch.from_numpy(features)).argmax(1).tolist()) <= {0, 1, 2}
