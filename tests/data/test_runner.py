"""Where the time of a job's tasks went."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from cliploom.data.runner import Spent, Tasks


def difference(before: Spent) -> Spent:
    return Spent(*(now - then for now, then in zip(Spent.so_far(), before, strict=True)))


def test_sleep_is_waiting_and_arithmetic_is_computing() -> None:
    before = Spent.so_far()
    time.sleep(0.2)
    slept = difference(before)
    assert slept.waiting > 0.19 > slept.computing
    before = Spent.so_far()
    while time.thread_time() < before.computing + 0.2:
        pass
    counted = difference(before)
    assert counted.computing >= 0.2
    assert sum(counted) >= counted.computing


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells")
def test_a_cpu_that_another_process_uses_is_no_storage() -> None:
    """Both are bound to one CPU, which they share."""
    code = (
        "import os, subprocess, sys, time\n"
        "from cliploom.data.runner import Spent\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "other = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        "before = Spent.so_far()\n"
        "while time.thread_time() < before.computing + 0.4: pass\n"
        "after = Spent.so_far()\n"
        "other.kill()\n"
        "print(after.queueing - before.queueing, after.waiting - before.waiting)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    queueing, waiting = map(float, done.stdout.split())
    assert queueing > waiting


@pytest.mark.parametrize(
    ("spent", "offered", "said"),
    [
        ((8, 0, 1), 10, "computing 80 %, busy with others 0 %, waiting for storage 10 %, without a task 10 %: more"),
        ((2, 1, 6), 10, "waiting for storage 60 %, without a task 10 %: a storage nearer"),
        ((2, 0, 1), 10, "without a task 70 %: too few shards"),
    ],
)
def test_the_summary_names_the_mend_of_what_held_the_work_back(
    spent: tuple[float, float, float], offered: float, said: str
) -> None:
    tasks = Tasks()
    assert tasks.summary() == "no tasks"
    tasks._spent, tasks._offered = Spent(*spent), offered
    assert said in tasks.summary()
