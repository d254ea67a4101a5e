from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from cliploom.evaluation import probe
from cliploom.evaluation.probe import Labelled


def _samples(seed: int, count: int, classes: int = 4, width: int = 8) -> Labelled:
    centres = np.random.default_rng(0).normal(size=(classes, width))
    random = np.random.default_rng(seed)
    truth = np.arange(count) % classes
    return Labelled((centres[truth] + 2 * random.normal(size=(count, width))).astype(np.float32), truth)


@given(st.integers(0, 96), st.floats(0.1, 3))
def test_the_search_finds_the_peak_of_whatever_has_one(peak: int, power: float) -> None:
    looked: list[int] = []

    def reached(step: int) -> float:
        looked.append(step)
        return -(abs(step - peak) ** power)

    best, tried = probe.search(reached)
    assert best == peak
    assert len(looked) == len(set(looked)) == len(tried) <= 15


def test_the_search_is_over_96_steps_of_an_eighth_of_a_decade() -> None:
    assert probe.penalty(0) == pytest.approx(1e-6)
    assert probe.penalty(96) == pytest.approx(1e6)
    assert probe.penalty(9) / probe.penalty(8) == pytest.approx(10**0.125)
    _, tried = probe.search(lambda step: 0.0)
    assert {0, 16, 32, 48, 64, 80, 96} <= set(tried)
    assert probe.search(lambda step: 0.0)[0] == 96, "of equal ones the strongest penalty"


def test_the_probe_is_scikit_learns_at_the_penalty_that_validation_chose() -> None:
    train, validation, test = _samples(1, 200), _samples(2, 80), _samples(3, 400)
    found = probe.run(train, validation, test, 4, ["acc1", "mean_per_class_recall"])
    accuracies = {}
    for l2 in found.tried:
        model = LogisticRegression(C=1 / l2, max_iter=10_000, tol=1e-8).fit(train.features.astype(float), train.truth)
        accuracies[l2] = model.score(validation.features, validation.truth)
    assert found.tried == pytest.approx(accuracies, abs=1.5 / 80)
    assert found.tried[found.l2] == max(found.tried.values())
    together = [np.concatenate(parts) for parts in zip(train, validation, strict=True)]
    together[0] = together[0].astype(float)  # in single precision scikit-learn stops early
    expected = LogisticRegression(C=1 / found.l2, max_iter=10_000, tol=1e-8).fit(*together)
    assert found.measures[0].estimate.value == pytest.approx(expected.score(*test), abs=1.5 / 400)
    assert [one.metric for one in found.measures] == ["acc1", "mean_per_class_recall"]
    assert found.training == 280


def test_without_a_validation_split_a_fifth_of_each_class_chooses_and_all_are_fitted() -> None:
    truth = np.repeat([0, 1, 2], [50, 10, 1])
    held = probe.held_out(truth)
    assert [int(held[truth == c].sum()) for c in range(3)] == [10, 2, 0]
    assert np.array_equal(held, probe.held_out(truth)), "the same at each run"
    assert probe.held_out(np.ones((50, 3), bool)).sum() == 10
    found = probe.run(_samples(1, 100), None, _samples(2, 100), 4, ["acc1"])
    assert found.training == 100


def test_a_multi_label_probe_is_chosen_by_its_own_metric() -> None:
    train, test = _samples(1, 200), _samples(2, 200)
    train, test = (Labelled(one.features, one.truth[:, None] == [0, 1, 2]) for one in (train, test))
    found = probe.run(train, None, test, 3, ["mean_average_precision_11point"])
    (measure,) = found.measures
    assert measure.estimate.value > 2 * measure.chance
