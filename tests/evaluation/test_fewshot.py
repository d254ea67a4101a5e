from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.evaluation import fewshot
from cliploom.evaluation.probe import Labelled


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 6))
def test_draws_are_of_each_class_distinct_and_nested(seed: int, examples: int, classes: int) -> None:
    truth = np.random.default_rng(seed).integers(0, classes, 60)
    chosen, further = fewshot.draw(truth, examples, seed)
    assert len({*chosen.tolist(), *further.tolist()}) == len(chosen) + len(further)
    for number in range(classes):
        there = int((truth == number).sum())
        assert (truth[chosen] == number).sum() == min(examples, there)
        assert (truth[further] == number).sum() == max(0, min(examples, 4, there - examples))
    assert set(chosen) <= set(fewshot.draw(truth, 2 * examples, seed)[0])


@given(st.floats(0.2, 0.9), st.floats(0.02, 0.1))
def test_worth_turns_a_log_linear_curve_around(start: float, slope: float) -> None:
    shots = (1, 2, 4, 8, 16)
    curve = [start + slope * math.log2(k) for k in shots]
    for examples in (0.5, 1, 1.5, 3, 7, 16):
        assert fewshot.worth(start + slope * math.log2(examples), shots, curve) == pytest.approx(examples)
    assert fewshot.worth(curve[-1] + 0.01, shots, curve) == math.inf


def test_worth_is_the_first_number_of_examples_that_reaches_it() -> None:
    assert fewshot.worth(0.3, (1, 2, 4), (0.2, 0.4, 0.2)) == pytest.approx(math.sqrt(2))
    assert fewshot.worth(0.2, (1, 2, 4), (0.3, 0.2, 0.4)) == 1, "a curve that falls is not drawn out"
    assert fewshot.worth(0.35, (1, 2, 4), (0.3, 0.2, 0.4)) == pytest.approx(2 * 2**0.75)


def test_more_examples_are_better_and_each_draw_is_kept() -> None:
    centres, random = np.random.default_rng(0).normal(size=(5, 10)), np.random.default_rng(1)
    truth = np.arange(500) % 5
    features = (centres[truth] + 1.5 * random.normal(size=(500, 10))).astype(np.float32)
    train, test = Labelled(features[:150], truth[:150]), Labelled(features[150:], truth[150:])
    shots = fewshot.run(train, test, 5, "acc1")
    assert [shot.examples for shot in shots] == [1, 2, 4, 8, 16]
    values = [shot.estimate.value for shot in shots]
    assert values[-1] > values[0] + 0.1
    for shot in shots:
        assert shot.estimate.value == pytest.approx(np.mean(shot.drawn))
        assert shot.estimate.low < shot.estimate.value < shot.estimate.high
        assert len(shot.drawn) == fewshot.SEEDS
    spread = [shot.estimate.high - shot.estimate.low for shot in shots]
    assert spread[0] > spread[-1], "which single example is drawn matters more"
    scarce = fewshot.run(Labelled(features[:30], truth[:30]), test, 5, "acc1")
    assert [(shot.examples, shot.scarce) for shot in scarce] == [(1, 0), (2, 0), (4, 0)]
