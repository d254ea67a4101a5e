"""Progress of long work: a live line on a terminal, plain lines at intervals elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_INTERVAL_SECONDS = 10.0  # between plain lines


class Progress:
    """Shows how far something is, and a few words about it.

    What is left is reckoned from the first word of how far it is, so that neither a start-up nor what was done before a
    restart counts as speed.

    Args:
        what: the work, in a word or two.
        total: units of it; None where nobody knows.
        unit: what is counted, where there is no total.
    """

    def __init__(self, what: str, total: int | None, unit: str = "") -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = 0
        self._first: tuple[int, float] | None = None  # what was done at the first word, and when that was
        self._began = time.monotonic()
        self._said = -_INTERVAL_SECONDS if total is not None else self._began
        self._live = _live(what, total) if sys.stdout.isatty() else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def add(self, count: int) -> None:
        """Say that `count` more units are done."""
        self.update(self._done + count)

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` units are done; `note` goes beside."""
        self._done = done
        now = time.monotonic()
        if self._first is None:
            self._first = done, now
        if self._live:
            self._live.update(self._live.task_ids[0], completed=done, text=self._text(note))
        elif now - self._said >= _INTERVAL_SECONDS or done == self._total:
            self._print(note)

    def say(self, line: str) -> None:
        """Print a line beside the progress."""
        if self._live:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._total is None:
            self._print("")

    def _print(self, note: str) -> None:
        self._said = time.monotonic()
        print(self._text(note), flush=True)

    def _text(self, note: str) -> str:
        left = self._left()
        return f"{self._what} {self._count()}{left and f', {left} left'}  {note}".rstrip()

    def _count(self) -> str:
        if self._total is not None:
            return f"{self._done}/{self._total}"
        return f"{self._done} {self._unit}, {self._done / max(time.monotonic() - self._began, 1e-3):.0f} a second"

    def _left(self) -> str:
        if self._total is None or self._first is None or not self._first[0] < self._done < self._total:
            return ""
        done, at = self._first
        return duration((time.monotonic() - at) * (self._total - self._done) / (self._done - done))


def duration(seconds: float) -> str:
    """`seconds` as a person says it: 42 s, 3:05 min, 2:10 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _live(what: str, total: int | None) -> Any:
    """A rich progress display of one line, of which a narrow terminal shows the beginning."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn  # for terminals alone
    from rich.table import Column

    text = TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    live = Progress(SpinnerColumn() if total is None else BarColumn(bar_width=12), text)
    live.add_task(what, total=total, text=what)
    return live
