"""Claims on evaluations: one evaluator a version, and what a dead one leaves is taken up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cliploom import registry
from cliploom.registry import claims, store
from cliploom.registry.claims import CLAIM, Claim

MODEL = "pictures"
LONG, SHORT = 600.0, 0.5  # seconds
Register = Callable[..., registry.Version]


def again(uri: str, version: registry.Version) -> registry.Version:
    return registry.resolve(uri, version.uri)


def test_a_version_is_claimed_once(uri: str, register: Register) -> None:
    version = register()
    first = claims.claim(uri, version, LONG)
    assert first is not None
    assert claims.claim(uri, version, LONG) is None  # before the first renewal
    with first:
        assert claims.claim(uri, again(uri, version), LONG) is None
        assert first.holds()
    second = claims.claim(uri, again(uri, version), LONG)
    assert second is not None
    assert not first.holds()


def test_of_many_evaluators_at_once_one_gets_it(uri: str, register: Register) -> None:
    version, start = register(), threading.Barrier(6)

    def work(_: int) -> Claim | None:
        start.wait()
        return claims.claim(uri, version, LONG)

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(work, range(6)))
    assert sum(one is not None for one in found) == 1


def test_pending_are_those_that_nobody_has_done_or_does(uri: str, register: Register, tmp_path: Path) -> None:
    versions = [register(bytes([number])) for number in range(3)]
    (tmp_path / "report").mkdir()
    registry.record_evaluation(uri, versions[0], [], tmp_path / "report", passed=True, reasons=[])
    other = claims.claim(uri, versions[1], LONG)
    assert other is not None
    with other:
        assert [one.version.version for one in claims.pending(uri, MODEL, LONG)] == [3]
    assert [one.version.version for one in claims.pending(uri, MODEL, LONG)] == [2]


def test_what_was_evaluated_since_it_was_listed_is_left_alone(uri: str, register: Register, tmp_path: Path) -> None:
    version = register()
    (tmp_path / "report").mkdir()
    registry.record_evaluation(uri, version, [], tmp_path / "report", passed=True, reasons=[])
    assert claims.claim(uri, version, LONG) is None


def test_a_holder_that_was_listed_long_ago_is_asked_again(uri: str, register: Register) -> None:
    version = register()
    mine = claims.claim(uri, version, LONG)
    assert mine is not None
    with mine:
        told = json.loads(again(uri, version).tags[CLAIM]) | {"when": "2020-01-01T00:00:00+00:00"}
        listed = replace(version, tags={CLAIM: json.dumps(told)})
        assert claims.claim(uri, listed, LONG) is None
        assert mine.holds()


def test_a_claim_that_was_lost_is_not_renewed_over_the_next_one(uri: str, register: Register) -> None:
    version = register()
    mine = claims.claim(uri, version, SHORT)
    assert mine is not None
    with mine:
        theirs = claims.claim(uri, version, 0)  # for which mine has lapsed
        assert theirs is not None
        mine._thread.join(60)
        assert not mine._thread.is_alive()
        with theirs:
            pass
    assert json.loads(again(uri, version).tags[CLAIM])["number"] == 2


def test_a_server_that_is_away_is_told_as_such(
    uri: str, register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an evaluator asks of it, since a watching one goes on after that error alone."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    version = register()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nothing answers, and no one else takes it
        away = f"http://127.0.0.1:{taken.getsockname()[1]}"
        mine = Claim(away, version, 1, "me", LONG)
        asked: list[Callable[[], object]] = [
            lambda: registry.check_model(away, MODEL),
            lambda: registry.candidates(away, MODEL),
            lambda: claims.claim(away, version, LONG),
            mine.__enter__,
            mine.holds,
            lambda: registry.Tracker.attach(away, version.run_id).url,
            lambda: registry.download(away, version, tmp_path),
            lambda: registry.results(away, version),
        ]
        for ask in asked:
            with pytest.raises(store.StoreError, match="can't be reached"):
                ask()


KILLED = """
import sys
from cliploom import registry
from cliploom.registry import claims
with claims.claim(sys.argv[1], registry.resolve(sys.argv[1], sys.argv[2]), float(sys.argv[3])):
    print("at work", flush=True)
    sys.stdin.read()
"""


def test_a_killed_evaluator_s_claim_lapses(uri: str, register: Register) -> None:
    version = register()
    command = [sys.executable, "-c", KILLED, uri, version.uri, str(SHORT)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "at work\n"
    assert claims.claim(uri, again(uri, version), LONG) is None
    other.kill()
    other.communicate()
    found = None
    while found is None:  # as a watching evaluator does
        found = claims.claim(uri, again(uri, version), SHORT)
    assert found.version.version == 1


def test_a_claim_is_renewed_for_as_long_as_the_work_takes(uri: str, register: Register) -> None:
    version = register()
    mine = claims.claim(uri, version, SHORT)
    assert mine is not None
    with mine:
        told = set[str]()
        while len(told) < 8:  # more renewals than a lease has
            told.add(again(uri, version).tags.get(CLAIM, ""))
        assert claims.claim(uri, again(uri, version), SHORT) is None
    assert json.loads(again(uri, version).tags[CLAIM])["state"] == "ended"


def test_a_version_is_given_up_after_some_failures(uri: str, register: Register) -> None:
    version = register()
    for _ in range(claims.ATTEMPTS):
        found = claims.claim(uri, again(uri, version), LONG)
        assert found is not None
        with pytest.raises(ZeroDivisionError), found:
            _ = 1 // 0
    assert claims.claim(uri, again(uri, version), LONG) is None


def test_two_models_of_one_run_are_claimed_apart(uri: str, register: Register, tmp_path: Path) -> None:
    version = register()
    other = registry.register(uri, "photos", version.run_id, tmp_path / "export", {}, "")
    assert claims.claim(uri, version, LONG)
    assert claims.claim(uri, other, LONG)
    params = store.client(uri).get_run(version.run_id).data.params
    assert len([key for key in params if key.startswith("evaluation.")]) == 2
