"""Progress of long work: a live line on a terminal, plain lines at intervals elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_INTERVAL_SECONDS = 10.0  # between plain lines


class Progress:
    """Shows how far something is, and a few words about it.

    Args:
        what: the work, in a word or two.
        total: units of it.
        done: units done before.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._first, self._done = what, total, done, done
        self._began = time.monotonic()
        self._last = -_INTERVAL_SECONDS
        self._live = _live(what, total, done) if sys.stdout.isatty() else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` units are done; `note` goes beside."""
        self._done = done
        if self._live:
            self._live.update(self._live.task_ids[0], completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._last >= _INTERVAL_SECONDS or done >= self._total:
            self._last = now
            print(f"{self._what} {done}/{self._total}{self._remaining()}  {note}".rstrip(), flush=True)

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._live:
            self._live.console.print(line, markup=False)
        else:
            print(line, flush=True)

    def _remaining(self) -> str:
        if self._done <= self._first or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._began) * (self._total - self._done) / (self._done - self._first)
        return f", {duration(seconds)} left"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()


def duration(seconds: float) -> str:
    """`seconds` as a person says it: 42 s, 3:05 min, 2:10 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _live(what: str, total: int, done: int):  # type: ignore[no-untyped-def]  # rich is imported for terminals alone
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    live = Progress(*columns)
    live.add_task(what, total=total, completed=done, note="")
    return live
