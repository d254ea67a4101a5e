"""Ray Tune itself, with trials that cost nothing: early stopping, retries, and a driver that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import servers
from cliploom.search import space
from cliploom.search.records import Records, Trial
from clusters import Head
from search import searching

pytestmark = pytest.mark.integration


def start(head: Head, method: str, folder: Path, seconds: float = 0.0) -> subprocess.Popen[str]:
    path = os.pathsep.join(str(servers.ROOT / name) for name in ("platform", "tests"))
    environment = {**os.environ, **head.environment, "RAY_ADDRESS": head.address, "PYTHONPATH": path}
    command = [sys.executable, "-m", "search.searching", method, str(folder), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(driver: subprocess.Popen[str]) -> list[list[Any]]:
    said, _ = driver.communicate()
    assert driver.returncode == 0
    return [json.loads(line) for line in said.splitlines() if line.startswith("[")]


def trials(folder: Path) -> list[Trial]:
    return Records(str(folder)).all()


def works(folder: Path) -> Counter[str]:
    return Counter(line for line in (folder / "log").read_text().splitlines() if "works" in line)


def test_a_driver_killed_in_mid_search_goes_on_with_the_same_trials_and_redoes_none(head: Head, tmp_path: Path) -> None:
    folder = tmp_path / "asha"
    driver = start(head, "asha", folder, seconds=0.5)
    assert driver.stdout is not None
    ended = 0
    for line in driver.stdout:
        ended += line.startswith('["recorded"')
        if ended == 2:
            break
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = {trial.number: trial for trial in trials(folder)}
    done = {number for number, trial in before.items() if trial.status}
    assert len(done) >= 2
    assert len(done) < searching.TRIALS
    told = finish(start(head, "asha", folder))
    after = trials(folder)
    assert [trial.number for trial in after] == list(range(searching.TRIALS))
    for trial in after:
        assert trial.settings == space.draw(searching.SPACE, 0, trial.number)
        assert trial.status is not None
        if trial.number in done:
            assert trial == before[trial.number]
            assert ["began", trial.number] not in told
    assert max(works(folder).values()) == 1
    statuses = Counter(trial.status for trial in after)
    assert statuses["stopped"] >= 1
    assert statuses["finished"] >= 1
    assert not any(line[0] == "ended" for line in finish(start(head, "asha", folder)))


def test_a_trial_that_fails_is_tried_again_then_marked_and_does_not_stop_the_search(head: Head, tmp_path: Path) -> None:
    """By TPE, whose first four trials are random; one of them has a rate that fails."""
    folder = tmp_path / "tpe"
    finish(start(head, "tpe", folder))
    found = trials(folder)
    assert len(found) == searching.TRIALS
    begins = Counter(line.split()[0] for line in (folder / "log").read_text().splitlines() if "begins" in line)
    for trial in found:
        failed = float(trial.settings[searching.RATE]) > 0.35
        assert (trial.status, begins[str(trial.number)]) == (("failed", 2) if failed else ("finished", 1))
        assert ("not finite" in trial.reason) == failed


def test_population_based_training_copies_the_better_into_the_worse(head: Head, tmp_path: Path) -> None:
    folder = tmp_path / "pbt"
    finish(start(head, "pbt", folder, seconds=0.2))
    records = Records(str(folder))
    found = records.all()
    assert all(trial.status in ("finished", "failed") for trial in found)
    copied = [(trial, branch) for trial in found if (branch := records.branch(trial.number))]
    assert copied
    for trial, branch in copied:
        assert branch.source is not None
        assert branch.source[0] != trial.number
        rate = float(branch.settings[searching.RATE])
        assert searching.SPACE[searching.RATE].low <= rate <= 1.0
        assert (trial.status == "failed") == (rate > 0.35)  # where Tune's own draw may have led
        if trial.status == "finished":
            steps = [point["step"] for point in records.points(trial.number)]
            assert steps == list(range(1, searching.EVALUATIONS["pbt"] + 1))
