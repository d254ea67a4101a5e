from __future__ import annotations

import pytest

from cliploom.errors import InputError
from cliploom.evaluation import gates
from cliploom.evaluation.results import Row
from cliploom.evaluation.suite import Entry, Suite
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


@pytest.mark.parametrize(("value", "passed"), [(0.5, True), (0.49, False)])
def test_a_floor_must_be_reached(value: float, passed: bool) -> None:
    verdict = gates.judge([_row(value)], Gates(floors={"cats/acc1": 0.5}))
    assert verdict.passed == passed
    assert passed or verdict.reasons == ["cats/acc1 is 49.0%, below its floor of 50.0%"]


def test_a_floor_that_was_not_measured_fails() -> None:
    verdict = gates.judge([_row(0.5)], Gates(floors={"cats/acc5": 0.5}))
    assert verdict == (False, ["cats/acc5 was not measured, its floor is 50.0%"])


@pytest.mark.parametrize(
    ("value", "allowed", "passed"), [(0.41, 0.0, True), (0.39, 0.0, False), (0.39, 0.02, True), (0.9, 0.0, True)]
)
def test_only_falling_out_of_the_champions_interval_is_a_regression(value: float, allowed: float, passed: bool) -> None:
    verdict = gates.judge([_row(value)], Gates(max_regression=allowed), [_row(0.5)])
    assert verdict.passed == passed
    assert passed or "cats/acc1 is 39.0%, the champion's 50.0%" in verdict.reasons[0]


def test_a_champion_of_another_suite_or_data_set_decides_nothing() -> None:
    champion = [_row(0.9, suite="large"), _row(0.9, dataset="dogs"), _row(0.9, metric="acc5")]
    assert gates.judge([_row(0.1)], Gates(), champion).reasons == ["no floors set, no champion to compare with"]


def test_a_floor_of_nothing_in_the_suite_is_refused_with_the_nearest() -> None:
    entry = Entry.model_validate({"dataset": "cats", "tasks": ["zeroshot_classification"]})
    gates.check(Gates(floors={"cats/acc5": 0.5}), Suite("small", (entry,)))
    with pytest.raises(InputError, match=r"the suite small has no cat/acc1; did you mean cats/acc1\?"):
        gates.check(Gates(floors={"cat/acc1": 0.5}), Suite("small", (entry,)))
