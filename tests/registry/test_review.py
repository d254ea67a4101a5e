"""The decision: who may become champion, and what is remembered of it."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import review as review_job

from cliploom import job, registry
from cliploom.errors import InputError
from cliploom.registry import review, store

MODEL = "pictures"
Register = Callable[..., registry.Version]
MakeRow = Callable[..., dict[str, Any]]
Evaluated = Callable[..., registry.Version]


def aliases(uri: str) -> dict[str, int]:
    return {alias: v.version for v in registry.versions(uri, MODEL) for alias in v.aliases}


def test_two_versions_approved_one_after_the_other(uri: str, evaluated: Evaluated) -> None:
    first = evaluated(0.5)
    review.approve(uri, first, "ada", "the first")
    assert aliases(uri) == {"champion": 1, "candidate": 1}
    second = evaluated(0.6)
    review.approve(uri, second, "grace", "better")
    assert aliases(uri) == {"champion": 2, "previous": 1, "candidate": 2}
    champion = registry.champion(uri, MODEL)
    assert champion is not None
    assert champion.version == 2
    tags = champion.tags
    assert (tags["review"], tags["review.by"], tags["review.why"]) == ("approved", "grace", "better")
    assert tags["review.override"] == "false"
    assert tags["review.when"].endswith("+00:00")


def test_approving_the_champion_again_keeps_previous(uri: str, evaluated: Evaluated) -> None:
    first, second = evaluated(0.5), evaluated(0.6)
    for version in (first, second, second):
        review.approve(uri, version, "ada")
    assert aliases(uri) == {"champion": 2, "previous": 1, "candidate": 2}


def test_a_failed_version_is_not_approved(uri: str, evaluated: Evaluated) -> None:
    version = evaluated(0.1, passed=False)
    with pytest.raises(InputError, match="has failed its evaluation"):
        review.approve(uri, version, "ada", "I like it")
    assert "champion" not in aliases(uri)
    assert "review" not in registry.resolve(uri, version.uri).tags


def test_a_version_without_evaluation_is_not_approved(uri: str, register: Register) -> None:
    with pytest.raises(InputError, match="is not evaluated"):
        review.approve(uri, register(), "ada")


def test_an_override_needs_a_reason_and_is_remembered(uri: str, evaluated: Evaluated) -> None:
    version = evaluated(0.1, passed=False)
    with pytest.raises(InputError, match="needs a reason"):
        review.approve(uri, version, "ada", override=True)
    review.approve(uri, version, "ada", "nothing better until Friday", override=True)
    assert aliases(uri)["champion"] == 1
    assert registry.resolve(uri, version.uri).tags["review.override"] == "true"


def test_a_needless_override_is_not_remembered_as_one(uri: str, evaluated: Evaluated) -> None:
    version = evaluated(0.5)
    review.approve(uri, version, "ada", "good", override=True)
    assert registry.resolve(uri, version.uri).tags["review.override"] == "false"


def test_reject(uri: str, evaluated: Evaluated) -> None:
    version = evaluated(0.5)
    review.reject(uri, version, "ada", "sees cats everywhere")
    tags = registry.resolve(uri, version.uri).tags
    assert (tags["review"], tags["review.why"]) == ("rejected", "sees cats everywhere")
    assert "champion" not in aliases(uri)


def test_the_champion_is_not_rejected(uri: str, evaluated: Evaluated) -> None:
    version = evaluated(0.5)
    review.approve(uri, version, "ada")
    with pytest.raises(InputError, match="is the champion"):
        review.reject(uri, registry.resolve(uri, version.uri), "ada")


shares = st.floats(0, 1)


@given(shares, shares, st.floats(0, 0.5), st.floats(0, 0.5))
def test_comparison_is_symmetric(first: float, second: float, width: float, other: float) -> None:
    rows = [
        {"dataset": "d", "task": "t", "metric": "m", "value": value, "low": value - margin, "high": value + margin}
        for value, margin in [(first, width), (second, other)]
    ]
    (one,), (two,) = review.compare(rows[:1], rows[1:]), review.compare(rows[1:], rows[:1])
    assert one.difference == -two.difference
    assert one.overlap == two.overlap
    if abs(first - second) > width + other + 1e-9:
        assert not one.overlap
    if abs(first - second) < width + other - 1e-9:
        assert one.overlap


def test_only_common_metrics_are_compared(make_row: MakeRow) -> None:
    first = [make_row(0.5), make_row(0.2, dataset="emojione"), make_row(0.7, "acc5")]
    second = [make_row(0.9, "acc5"), make_row(0.4), make_row(0.4, task="linear_probe")]
    compared = review.compare(first, second)
    assert [(c.metric, round(c.difference, 6)) for c in compared] == [("acc5", 0.2), ("acc1", -0.1)]


def run(uri: str, *words: str) -> int:
    settings = [f"registry.uri={uri}", f"registry.model_name={MODEL}"]
    return job.run(review_job.main, review_job.USAGE, [*words, *settings], review_job.OPTIONS)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80
    return lines


def test_job_from_list_to_champion(uri: str, evaluated: Evaluated, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(0.5)
    evaluated(0.505)
    evaluated(0.7)
    assert run(uri, "approve", "1", "the", "first") == 0
    capsys.readouterr()
    assert run(uri, "list") == 0
    text = "\n".join(lines_of(capsys))
    assert text.index("70.0 [69.0, 71.0]") < text.index("50.5 [49.5, 51.5]") < text.index("50.0 [49.0, 51.0]")
    assert "+20.0" in text
    assert "+0.5 ~" in text
    assert "94.5k" in text
    assert "acc5" not in text  # the first metric of a task is the one that counts
    assert run(uri, "compare", "champion", "3") == 0
    assert any("acc5" in line and line.rstrip().endswith("+10.0") for line in lines_of(capsys))
    assert run(uri, "approve", "candidate", "review.by=grace", "review.why=better") == 0
    assert aliases(uri) == {"champion": 3, "previous": 1, "candidate": 3}
    tags = registry.resolve(uri, "models:/pictures/3").tags
    assert (tags["review.by"], tags["review.why"]) == ("grace", "better")
    first = registry.resolve(uri, "models:/pictures/1").tags
    assert (first["review.by"], first["review.why"]) == (getpass.getuser(), "the first")


def test_job_shows_a_version(uri: str, evaluated: Evaluated, capsys: pytest.CaptureFixture[str]) -> None:
    version = evaluated(0.5)
    assert run(uri, "show", "1") == 0
    text = "\n".join(lines_of(capsys))
    assert "A card" in text
    assert version.run_id in text
    assert run(uri, "reject", "1", "no", "good") == 0
    assert registry.resolve(uri, version.uri).tags["review"] == "rejected"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "write list | show"),
        (["approve"], "write list | show"),
        (["show", "7"], "no version 7"),
        (["show", "champion"], "no alias champion"),
        (["approve", "1"], "has failed its evaluation"),
        (["approve", "1", "review.override=true"], "needs a reason"),
    ],
)
def test_job_answers_wrong_input_in_a_line(
    uri: str, evaluated: Evaluated, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    evaluated(0.1, passed=False)
    assert run(uri, *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "champion" not in {alias for v in registry.versions(uri, MODEL) for alias in v.aliases}


def test_job_without_a_registered_model(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    store.client(uri).create_registered_model("photos")
    assert run(uri, "list") == 2
    assert "no registered model pictures" in capsys.readouterr().err
