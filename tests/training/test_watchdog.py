"""A process that hangs writes down where it stands, says so, and ends; one that goes on is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import threading
from cliploom.training import watchdog
watchdog._GRACE_SECONDS = 0.0
dog = watchdog.Watchdog({place!r}, lambda line: print(line, flush=True))

def wait_for_nothing():
    with dog.watching("step 8", 0.2):
        threading.Event().wait()

for number in range(100):
    with dog.watching(f"step {{number}}", 60):
        pass
{end}
"""


def run(place: str, end: str) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(place=place, end=end)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize("place", ["hangs/0001-0.txt", "/dev/null/nowhere"])
def test_a_hang_is_written_down_and_ends_the_process(tmp_path: Path, place: str) -> None:
    file = tmp_path / place
    answer = run(str(file), "wait_for_nothing()")
    assert answer.returncode == 1
    assert answer.stdout == f"step 8 took more than 0 s; its stacks are in {file}\n"
    stacks = file.read_text() if tmp_path in file.parents else answer.stderr
    assert "in wait_for_nothing" in stacks


def test_what_goes_on_is_left_alone(tmp_path: Path) -> None:
    answer = run(str(tmp_path / "x"), "threading.Event().wait(0.5); print('done')")
    assert (answer.returncode, answer.stdout) == (0, "done\n")
