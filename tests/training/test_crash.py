"""A save killed at any of its operations, and files damaged after it: the newest whole checkpoint is loaded."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import crashes
from benchmarks.machine import machine
from cliploom import storage
from crashes import DAMAGES, WORLD, Case

RESULTS = Path("build/crashes.json")


class Place:
    """A backend: makes runs with the same history, and knows the bytes of undisturbed saves."""

    def __init__(self, name: str, root: str) -> None:
        self.name, self._root = name, root
        self._runs = itertools.count()
        run, case = self._new(), Case(0, None, "none")
        attempt = crashes.history(run)
        self.whole = crashes.contents(run)
        self.operations = crashes.disturbed_save(run, attempt, case)
        self.whole |= crashes.contents(run)

    def _new(self) -> str:
        return storage.join(self._root, f"run-{next(self._runs)}")

    def cases(self) -> list[Case]:
        """Each operation of each worker's save, and the undisturbed save, with each kind of damage."""
        killed = [(rank, number) for rank in range(WORLD) for number in range(self.operations[rank])]
        return [Case(rank, number, damage) for rank, number in [(0, None), *killed] for damage in DAMAGES]

    def run(self, case: Case) -> None:
        """Raises AssertionError where another checkpoint than the newest whole one is loaded."""
        run = self._new()
        attempt = crashes.history(run)
        crashes.disturbed_save(run, attempt, case)
        damaged = crashes.injure(run, case.damage, Random(str(case)))
        crashes.check(run, self.whole, f"{self.name}, {case}, damaged: {damaged}")
        storage.delete(run)


@pytest.fixture(scope="module", params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    local = request.param == "local"
    return Place(
        request.param, str(tmp_path_factory.mktemp("runs")) if local else request.getfixturevalue("s3")() + "/runs"
    )


def test_some_crashes(place: Place) -> None:
    """A sample of the cases that the next test goes through: all damages, the operations spread over the save."""
    cases = place.cases()
    for case in cases[:: len(cases) // 12 + 1 | 1]:
        place.run(case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_crash(s3: Callable[[], str], tmp_path: Path) -> None:
    """Writes build/crashes.json."""
    counts: Counter[str] = Counter()
    operations = {}
    for place in (Place("local", str(tmp_path)), Place("s3", s3() + "/runs")):
        operations[place.name] = place.operations
        for case in place.cases():
            place.run(case)
            when = "whole save" if case.operation is None else f"killed, worker {case.rank}"
            counts[f"{place.name}, {when}, {case.damage}"] += 1
    assert counts.total() >= 200
    RESULTS.parent.mkdir(exist_ok=True)
    report = {
        **machine(),
        "command": "python -m pytest -m slow tests/training/test_crash.py",
        "operations of a save, by worker": operations,
        "cases": counts.total(),
        "newest whole checkpoint loaded": counts.total(),
        "cases by stratum": counts,
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
