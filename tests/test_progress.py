"""What is shown of long work: plain lines, and a live line on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from cliploom.progress import Progress, duration


def test_plain_lines_come_at_the_first_word_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("shard", 30) as progress:
        for done in range(10, 31):
            progress.update(done, f"note {done}")
        progress.say("a line of its own")
    said = capsys.readouterr().out.splitlines()
    assert said == ["shard 10/30  note 10", "shard 30/30  note 30", "a line of its own"]


def test_where_no_total_is_known_the_sum_comes_last(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("prepare a [folder]", None, "samples") as progress:
        for count in (3, 4):
            progress.add(count)
    assert re.fullmatch(r"prepare a \[folder\] 7 samples, \d+ a second\n", capsys.readouterr().out)


def test_what_is_left_is_reckoned_from_the_first_word() -> None:
    """A run that goes on at step 900 of 1000 has not done 900 steps in a moment."""
    progress = Progress("step", 1000)
    progress.update(900)
    assert progress._left() == ""
    assert progress._first is not None
    progress._first = (900, progress._first[1] - 60)  # a minute ago
    progress.update(910)
    assert progress._left() == "9:00 min"
    progress.update(1000)
    assert progress._left() == ""


LIVE = """
from cliploom.progress import Progress
with Progress("step", 3) as progress, Progress("prepare [x]", None, "samples") as other:
    pass
with Progress("step", 3) as progress:
    progress.update(1, "loss 2.000")
    progress.say("step 1  zeroshot/a/acc1 0.5")
    progress.update(3, "loss [1.000]")
"""


def test_a_terminal_gets_a_live_line() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    shown = subprocess.Popen([sys.executable, "-c", LIVE], stdout=theirs, stderr=theirs, env=environment)
    assert shown.wait() == 0
    os.close(theirs)
    text = ""
    while part := _read(ours):
        text += part
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "step 1  zeroshot/a/acc1 0.5" in plain
    assert "3/3" in plain
    assert "loss [1.000]" in plain


def _read(handle: int) -> str:
    try:
        return os.read(handle, 1 << 16).decode()
    except OSError:  # Linux says the end of a terminal so
        return ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (61, "1:01 min"), (3599.6, "1:00 h"), (7260, "2:01 h")]
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
