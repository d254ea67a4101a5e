"""Decisions one after the other: rolled back, told, contested, cut off in the middle, and tampered with."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jobs import review as review_job

from cliploom import job, registry
from cliploom.errors import InputError
from cliploom.registry import history, journal, review, store

MODEL = "pictures"
Evaluated = Callable[..., registry.Version]


def aliases(uri: str) -> dict[str, int]:
    return {alias: int(number) for alias, number in store.client(uri).get_registered_model(MODEL).aliases.items()}


def champion(uri: str) -> tuple[int | None, int | None]:
    return aliases(uri).get("champion"), aliases(uri).get("previous")


def state(uri: str, version: int) -> str:
    return registry.resolve(uri, f"models:/{MODEL}/{version}").tags["review"]


@pytest.fixture
def three(uri: str, evaluated: Evaluated) -> list[registry.Version]:
    """Three versions that have passed, the last one failed."""
    return [evaluated(0.5), evaluated(0.6), evaluated(0.7, passed=False)]


def test_rolled_back_step_by_step(uri: str, three: list[registry.Version]) -> None:
    for version in three:
        review.approve(uri, version, "ada", "because", override=True)
    assert champion(uri) == (3, 2)
    assert review.rollback(uri, MODEL, "grace", "it sees cats").version == 2
    assert champion(uri) == (2, 1)
    assert (state(uri, 3), state(uri, 2)) == ("rolled back", "approved")
    review.rollback(uri, MODEL, "grace", "so does this one")
    assert champion(uri) == (1, None)
    with pytest.raises(InputError, match="no version to go back to"):
        review.rollback(uri, MODEL, "grace", "and this one")
    review.approve(uri, three[2], "ada", "mended", override=True)
    assert champion(uri) == (3, 1)


def test_a_rejected_version_is_not_gone_back_to(uri: str, three: list[registry.Version]) -> None:
    for version in three:
        review.approve(uri, version, "ada", "because", override=True)
    review.reject(uri, three[1], "grace", "leaks")
    assert champion(uri) == (3, 1)
    review.rollback(uri, MODEL, "ada", "worse")
    assert champion(uri) == (1, None)


def test_a_rollback_needs_a_reason_and_a_champion(uri: str, three: list[registry.Version]) -> None:
    with pytest.raises(InputError, match="needs a reason"):
        review.rollback(uri, MODEL, "ada", "")
    with pytest.raises(InputError, match="has no champion"):
        review.rollback(uri, MODEL, "ada", "why not")


def test_the_history_keeps_what_the_gates_had_said(uri: str, three: list[registry.Version]) -> None:
    review.approve(uri, three[0], "ada", "good")
    review.approve(uri, three[2], "ada", "nothing better", override=True)
    first, second = history.read(uri, MODEL).decisions
    assert (first.evaluation, first.override, first.found, first.champion) == ("passed", False, None, 1)
    assert (second.evaluation, second.override, second.found, second.champion) == ("failed", True, 1, 3)
    assert second.reasons == "acc1 is below its floor."


def test_a_decision_on_what_has_changed_since_it_was_looked_at(uri: str, three: list[registry.Version]) -> None:
    seen = history.read(uri, MODEL)
    review.approve(uri, three[0], "ada", "good", seen=seen)
    with pytest.raises(InputError, match="ada decided meanwhile: version 1 of pictures is approved"):
        review.approve(uri, three[1], "grace", "better", seen=seen)
    assert champion(uri) == (1, None)
    assert len(history.read(uri, MODEL).decisions) == 1


def test_of_many_reviewers_at_once_one_wins(uri: str, three: list[registry.Version]) -> None:
    seen, start = history.read(uri, MODEL), threading.Barrier(6)

    def decide(number: int) -> str | None:
        start.wait()
        try:
            review.approve(uri, three[number % 2], f"reviewer {number}", "good", seen=seen)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(decide, range(6)))
    [winner] = [number for number, answer in enumerate(answers) if answer is None]
    assert all(f"reviewer {winner} decided meanwhile" in answer for answer in answers if answer)
    [decision] = history.read(uri, MODEL).decisions
    assert decision.by == f"reviewer {winner}"
    assert champion(uri) == (winner % 2 + 1, None)


def test_a_decision_cut_off_before_the_aliases_is_brought_to_its_end(
    uri: str, three: list[registry.Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise ConnectionError

    review.approve(uri, three[0], "ada", "good")
    with monkeypatch.context() as patch:
        patch.setattr(review, "_apply", die)
        with pytest.raises(ConnectionError):
            review.approve(uri, three[1], "ada", "better")
    assert champion(uri) == (1, None)
    review.reject(uri, three[2], "grace", "no")
    assert champion(uri) == (2, 1)
    assert (state(uri, 2), state(uri, 3)) == ("approved", "rejected")


def test_a_champion_moved_by_hand_is_seen(
    uri: str, three: list[registry.Version], capsys: pytest.CaptureFixture[str]
) -> None:
    review.approve(uri, three[0], "ada", "good")
    store.client(uri).set_registered_model_alias(MODEL, "champion", "3")
    review.approve(uri, three[1], "ada", "better")
    assert champion(uri) == (2, 3)
    assert run(uri, "history") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "champion was moved 1 -> 3 without a decision" in text


def change(path: Path, sql: str) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(sql).rowcount == 1
    connection.close()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE params SET value = replace(value, 'good', 'nice') WHERE key LIKE 'review.%.0001'", "does not follow"),
        (
            "UPDATE params SET value = replace(value, 'better', 'worse') WHERE key LIKE 'review.%.0002'",
            "is not the one",
        ),
        ("DELETE FROM params WHERE key LIKE 'review.%.0002'", "2 decisions were made, but only 1"),
    ],
)
def test_tampering_is_seen(uri: str, three: list[registry.Version], tmp_path: Path, sql: str, said: str) -> None:
    review.approve(uri, three[0], "ada", "good")
    review.approve(uri, three[1], "ada", "better")
    assert history.read(uri, MODEL).faults == ()
    change(tmp_path / "mlflow.db", sql)
    [fault] = history.read(uri, MODEL).faults
    assert said in fault


def test_a_deleted_journal_is_named(uri: str, three: list[registry.Version]) -> None:
    client = store.client(uri)
    client.delete_run(three[0].run_id)
    with pytest.raises(InputError, match=f"run {three[0].run_id} keeps .* was deleted: restore it"):
        review.approve(uri, three[0], "ada")
    assert aliases(uri) == {"candidate": 3}
    client.restore_run(three[0].run_id)
    review.approve(uri, three[0], "ada")
    assert champion(uri) == (1, None)


def test_long_words_are_cut_not_lost(uri: str, three: list[registry.Version]) -> None:
    review.approve(uri, three[0], "ada", "ö" * 5000)
    [decision] = history.read(uri, MODEL).decisions
    assert len(decision.why) == 1500
    assert decision.why.endswith("ö…")


def test_a_model_that_another_tool_registered(uri: str, tracker: registry.Tracker) -> None:
    client = store.client(uri)
    client.create_registered_model(MODEL)
    made = client.create_model_version(MODEL, "elsewhere", tracker.run_id)
    version = registry.resolve(uri, f"models:/{MODEL}/{made.version}")
    review.approve(uri, version, "ada", "trusted", override=True)
    assert champion(uri) == (1, None)
    assert client.get_registered_model(MODEL).tags[history.JOURNAL] == tracker.run_id


def test_an_entry_is_written_once(uri: str, tracker: registry.Tracker) -> None:
    client = store.client(uri)
    assert journal.add(client, tracker.run_id, "list", 1, "a")
    assert journal.add(client, tracker.run_id, "list", 1, "a")  # as after an answer that was lost
    assert not journal.add(client, tracker.run_id, "list", 1, "b")
    assert journal.add(client, tracker.run_id, "list", 3, "c")
    assert journal.read(client, tracker.run_id, "list") == ["a"]
    with pytest.raises(ValueError, match="6001 characters"):
        journal.add(client, tracker.run_id, "list", 2, "x" * 6001)


def run(uri: str, *words: str) -> int:
    settings = [f"registry.uri={uri}", f"registry.model_name={MODEL}", "review.by=ada"]
    return job.run(review_job.main, review_job.USAGE, [*words, *settings], review_job.OPTIONS)


def test_job_from_override_to_history(
    uri: str, three: list[registry.Version], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(uri, "history") == 0
    assert "no decision" in capsys.readouterr().out
    assert run(uri, "approve", "1", "the", "first") == 0
    assert run(uri, "approve", "3", "no", "choice", "--override") == 0
    assert run(uri, "rollback") == 2
    assert run(uri, "rollback", "it", "was", "wrong") == 0
    assert "models:/pictures/1 is the champion again" in capsys.readouterr().out
    assert run(uri, "history") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for part in ("3 rolled back 3 3 -> 1", "it was wrong", "evaluation failed, overridden: acc1 is below", "none -> 1"):
        assert part in text


def test_job_writes_pages_that_stand_alone(
    uri: str, three: list[registry.Version], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = store.client(uri)
    client.update_model_version(MODEL, "2", "# Card\n<script>alert(1)</script>\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    run(uri, "approve", "1", "<b>bold</b>")
    file = tmp_path / "page.html"
    for words, parts in [
        (("list",), ("Version 3", "+20.0", "50.0 [49.0, 51.0]", "&lt;b&gt;bold", "decision 1, ada")),
        (("show", "2"), ("<h1>Card</h1>", "&lt;script&gt;", "<td>1</td>", "Beside the champion", "+10.0")),
        (("compare", "1", "3"), ("version 1", "version 3", "+20.0", "left: 49.00%")),
        (("history",), ("approved", "evaluation passed")),
    ]:
        assert run(uri, *words, "--html", str(file)) == 0
        page = file.read_text()
        assert all(part in page for part in parts), words
        assert "<script" not in page
        assert "http://" not in page.replace("http-equiv", "")
        assert "https://" not in page
    assert f"page     {file}" in capsys.readouterr().out
