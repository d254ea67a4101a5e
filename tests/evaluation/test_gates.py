from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cliploom.errors import InputError
from cliploom.evaluation import gates
from cliploom.evaluation.intervals import Estimate, wilson
from cliploom.evaluation.overlap import Overlap, analyse, bonferroni
from cliploom.evaluation.results import Row
from cliploom.evaluation.robustness import Shift
from cliploom.evaluation.suite import Entry, Suite
from cliploom.settings.evaluation import Evaluate, EvaluateOverlap
from cliploom.settings.registry import Gates


def _row(value: float, dataset: str = "cats", metric: str = "acc1", suite: str = "small") -> Row:
    return Row(
        suite=suite,
        model="m",
        version=1,
        dataset=dataset,
        task="zeroshot_classification",
        metric=metric,
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        chance=0.01,
        samples=100,
        seconds=1.0,
    )


def test_without_gates_and_champion_everything_passes() -> None:
    assert gates.judge([_row(0.0)], Gates()) == (True, ["no floors set, no champion to compare with"])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.61, None),
        (0.59, "cats/acc1 is 59.0%, its interval from 49.0% on, below its floor of 50.0%"),
        (0.49, "cats/acc1 is 49.0%, below its floor of 50.0%"),
    ],
)
def test_the_interval_must_lie_above_a_floor(value: float, said: str | None) -> None:
    verdict = gates.judge([_row(value)], Gates(floors={"cats/acc1": 0.5}))
    assert verdict.passed == (said is None)
    assert said is None or verdict.reasons == [said]


def test_a_floor_that_was_not_measured_fails() -> None:
    verdict = gates.judge([_row(0.5)], Gates(floors={"cats/acc5": 0.5}))
    assert verdict == (False, ["cats/acc5 was not measured, its floor is 50.0%"])


@pytest.mark.parametrize(
    ("value", "allowed", "passed"), [(0.36, 0.0, True), (0.35, 0.0, False), (0.35, 0.02, True), (0.9, 0.0, True)]
)
def test_only_a_loss_that_is_no_chance_is_a_regression(value: float, allowed: float, passed: bool) -> None:
    """Both intervals reach 10 points to either side, that of the difference 14.1."""
    verdict = gates.judge([_row(value)], Gates(max_regression=allowed), [_row(0.5)])
    assert verdict.passed == passed
    assert passed or "cats/acc1 is 35.0%, the champion's 50.0%: a loss of 0.9 to 29.1 points" in verdict.reasons[0]


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """The example (a) of his paper's table II, 56 of 70 and 48 of 80: 0.20, from 0.0524 to 0.3339."""
    found = gates.difference(wilson(48 / 80, 80), wilson(56 / 70, 70))
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def _overlap(overlapping: int, right: int, clean: int) -> Overlap:
    """Of 100 samples so many overlap, of whose answers `right` are right; of the others `clean`."""
    hits = np.arange(100) < right
    hits[overlapping:] = np.arange(100 - overlapping) < clean
    [found] = bonferroni([analyse("cats", hits, np.arange(100) < overlapping)])
    return found


def test_overlap_fails_by_its_size_and_by_what_it_provably_adds() -> None:
    large, lucky = _overlap(30, 29, 35), _overlap(4, 4, 80)
    assert gates.judge([_row(0.9)], Gates(), (), (), [large]).passed
    assert gates.judge([_row(0.9)], Gates(max_overlap=0.3), (), (), [large]).reasons == [
        "no floors set, no champion to compare with, overlap within limits (1)"
    ]
    [reason] = gates.judge([_row(0.9)], Gates(max_overlap=0.29), (), (), [large]).reasons
    assert reason == "cats: training holds 30.0% of its samples, more than 29.0%"
    [reason] = gates.judge([_row(0.9)], Gates(max_overlap_gain=0.1), (), (), [large]).reasons
    assert "cats: samples that training holds add 14.0 points (p = " in reason
    assert gates.judge([_row(0.9)], Gates(max_overlap_gain=0.0), (), (), [lucky]).passed  # 4 of 4 may be chance


def test_a_gain_passes_where_nothing_overlaps_and_fails_where_nothing_is_left_to_compare() -> None:
    limit = Gates(max_overlap_gain=0.5)
    assert gates.judge([], limit, overlaps=[_overlap(0, 0, 80)]).passed
    [reason] = gates.judge([], limit, overlaps=[_overlap(100, 80, 0)]).reasons
    assert reason == "cats: what samples that training holds add was not measured, since it holds all of them"
    assert gates.judge([], Gates(max_overlap=1.0), overlaps=[_overlap(100, 80, 0)]).passed


@pytest.mark.parametrize("limit", [{"max_overlap": 0.5}, {"max_overlap_gain": 0.5}, {"min_robustness": 0.0}])
def test_what_was_measured_nowhere_is_not_within_limits(limit: dict[str, Any]) -> None:
    passed, [reason] = gates.judge([_row(0.9)], Gates.model_validate(limit))
    assert not passed
    assert "was not measured" in reason


def test_robustness_fails_where_the_whole_interval_lies_below() -> None:
    def shift(effective: Estimate | None) -> Shift:
        return Shift("cats", "sketches", "zero-shot", Estimate(0.8, 0.7, 0.9), Estimate(0.4, 0.3, 0.5), None, effective)

    limit = Gates(min_robustness=0.0)
    assert gates.judge([], limit, shifts=[shift(Estimate(-0.1, -0.2, 0.01))]).passed
    [reason] = gates.judge([], limit, shifts=[shift(Estimate(0.1, 0.0, 0.2)), shift(None)]).reasons
    assert reason == (
        "sketches (zero-shot): effective robustness was not measured: evaluate.references needs three models or more, "
        "of different accuracies, with cats/sketches and sketches"
    )
    [reason] = gates.judge([], limit, shifts=[shift(Estimate(-0.1, -0.2, -0.01))]).reasons
    assert reason == (
        "sketches (zero-shot): effective robustness is -10.0 points (95 % interval up to -1.0), below +0.0"
    )


def test_a_champion_of_another_suite_or_data_set_decides_nothing() -> None:
    champion = [_row(0.9, suite="large"), _row(0.9, dataset="dogs"), _row(0.9, metric="acc5")]
    assert gates.judge([_row(0.1)], Gates(), champion).reasons == ["no floors set, no champion to compare with"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"floors": {"cat/acc1": 0.5}}, r"the suite small has no cat/acc1; did you mean cats/acc1\?"),
        ({"max_overlap": 0.1}, "max_overlap needs evaluate.overlap.manifest"),
        ({"max_overlap_gain": 0.1}, "max_overlap_gain needs evaluate.overlap.manifest"),
        ({"min_robustness": 0}, "the suite small has no shift"),
    ],
)
def test_gates_of_what_is_not_measured_are_refused(limits: dict[str, Any], said: str) -> None:
    entry = Entry.model_validate({"dataset": "cats", "tasks": ["zeroshot_classification"]})
    gates.check(Evaluate(gates=Gates(floors={"cats/acc5": 0.5})), Suite("small", (entry,)))
    with pytest.raises(InputError, match=said):
        gates.check(Evaluate(gates=Gates.model_validate(limits)), Suite("small", (entry,)))


def test_overlap_is_measured_where_something_is_classified() -> None:
    entry = Entry.model_validate({"dataset": "pairs", "tasks": ["zeroshot_retrieval"]})
    settings = Evaluate(gates=Gates(max_overlap=0.1), overlap=EvaluateOverlap(manifest="shards"))
    with pytest.raises(InputError, match=r"gates\.max_overlap: the suite small has no task of classification"):
        gates.check(settings, Suite("small", (entry,)))
    both = (entry, Entry.model_validate({"dataset": "cats", "tasks": ["linear_probe"]}))
    gates.check(settings, Suite("small", both))


def test_robustness_needs_references() -> None:
    entries = [{"dataset": "cats"}, {"dataset": "sketches", "shift_of": "cats"}]
    shifted = tuple(Entry.model_validate({**entry, "tasks": ["zeroshot_classification"]}) for entry in entries)
    with pytest.raises(InputError, match=r"needs evaluate\.references"):
        gates.check(Evaluate(gates=Gates(min_robustness=0)), Suite("small", shifted))
    gates.check(Evaluate(gates=Gates(min_robustness=0), references="models.csv"), Suite("small", shifted))
