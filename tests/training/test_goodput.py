"""Goodput: steps count once, over all jobs of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.training.goodput import Goodput, read


def row(step: int, steps: int, seconds: float, attempt: int = 1) -> dict[str, Any]:
    """Of `steps` steps up to `step`, as a worker reports it."""
    return {
        "step": step,
        "steps": steps,
        "productive_seconds": seconds,
        "data_wait_seconds": 0.5,
        "attempt": attempt,
    }


def test_steps_that_are_taken_again_count_once(tmp_path: Path) -> None:
    goodput = Goodput(str(tmp_path))
    goodput.add(row(10, 10, 20.0))
    goodput.add(row(6, 1, 2.0, attempt=2))  # went back to step 5
    goodput.add(row(14, 8, 16.0, attempt=2))  # of which four are new
    found = goodput.metrics()
    assert found["productive_seconds_total"] == pytest.approx(28.0)
    assert found["data_wait_seconds_total"] == 1.5
    assert found["restarts_total"] == 1


def test_a_job_goes_on_from_the_record_of_the_one_before(tmp_path: Path) -> None:
    first = Goodput(str(tmp_path))
    assert first.metrics()["goodput"] == 0
    first.add(row(10, 10, 20.0))
    first.write()
    before = read(str(tmp_path))
    second = Goodput(str(tmp_path))
    second.add(row(10, 2, 4.0, attempt=2))  # retaken
    second.add(row(12, 2, 4.0, attempt=2))
    found = second.metrics()
    assert found["productive_seconds_total"] == pytest.approx(24.0)
    assert found["wall_seconds_total"] >= before["wall_seconds"]
    assert found["goodput"] == pytest.approx(24.0 / found["wall_seconds_total"], rel=1e-3)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), max_size=20))
def test_at_a_second_a_step_the_farthest_step_is_productive(reports: list[tuple[int, int]]) -> None:
    goodput = Goodput("/nowhere")
    farthest = 0
    for start, steps in reports:
        begin = min(start, farthest)  # a worker never starts beyond what was done
        goodput.add(row(begin + steps, steps, float(steps)))
        farthest = max(farthest, begin + steps)
    assert goodput.metrics()["productive_seconds_total"] == pytest.approx(farthest)
