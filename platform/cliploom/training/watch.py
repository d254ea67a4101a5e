"""What a job shows of a run while it trains: takes the rows that workers report, and hands them to whoever looks.

`METRICS.md` beside this file lists the names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any, Protocol

from cliploom.data import stalls
from cliploom.errors import StorageError
from cliploom.progress import Progress, duration
from cliploom.training.exporter import Exporter
from cliploom.training.goodput import Goodput
from cliploom.training.run import Run

_STALL_SECONDS = 600.0  # between two lines on what was waited for
_NOT_LOGGED = {"step", "steps", "attempt", "productive_seconds"}  # told by the step, or by totals


class Tracker(Protocol):
    """Where metrics and files are kept."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep metrics, by step."""

    def keep(self, uri: str, folder: str) -> None:
        """Keep a copy of a file below a folder; raises StorageError where that is not to be had now."""

    def steps(self, name: str) -> set[int]:
        """The steps of which it has a metric."""


class Watch:
    """Called with each row, in the driver, inside a `with` block of its own.

    Args:
        run: which trains.
        tracker: keeps metrics and files.
        progress: shows how far the run is.
        committed: is told of the step of each whole checkpoint.
    """

    def __init__(
        self,
        run: Run,
        tracker: Tracker,
        progress: Progress,
        committed: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._tracker, self._progress, self._committed = tracker, progress, committed
        self._tracked = tracker.steps("loss")
        self._goodput = Goodput(run.folder)
        self._exporter = Exporter(str(run.config.run.name))
        self._last: dict[str, Any] = {}
        self._stalled: dict[str, Any] = {}  # the row that the last line on stalls went up to
        self._said = time.monotonic()

    def __call__(self, row: dict[str, Any]) -> None:
        """Hand a row on."""
        if "checkpoint" in row:
            self._committed(row["checkpoint"])
        elif "restart" in row:
            self._progress.say(f"restart from step {row['step']}, workers {row['workers']}: {row['restart']}")
        elif "before" in row:
            self._fill_in(row["before"])
        elif "artifact" in row:
            self._keep(row["artifact"])
        elif "bad" in row:
            named = {f"bad/{cause.replace(' ', '_')}": count for cause, count in row["bad"].items()}
            self._tracker.log(named, row["step"])
        elif "system" in row:
            named = {f"system/{row['node']}/{name}": value for name, value in row["system"].items()}
            self._tracker.log(named, self._last.get("step", 0))
        else:
            self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        self._last = row
        self._goodput.add(row)
        totals = self._goodput.metrics()
        self._track(row | totals)
        self._exporter.set(row | totals | {"samples_total": row["samples"]})
        self._progress.update(row["step"], line(row))
        if time.monotonic() - self._said >= _STALL_SECONDS:
            self._say_stalls(row)

    def _keep(self, uri: str) -> None:
        try:
            self._tracker.keep(uri, "profile")
        except StorageError as error:
            self._progress.say(f"warning: {uri} has no copy with the run's metrics: {error}")

    def _fill_in(self, row: dict[str, Any]) -> None:
        """Keep what a job before reported, and was killed before it had sent it."""
        if row["step"] not in self._tracked:
            self._track(row)

    def _track(self, row: Mapping[str, Any]) -> None:
        self._tracker.log({name: value for name, value in row.items() if name not in _NOT_LOGGED}, row["step"])

    def _say_stalls(self, row: dict[str, Any]) -> None:
        before = self._stalled if self._stalled.get("attempt") == row["attempt"] else {}
        self._progress.say(stalls.summary(stalls.between(before, row)))
        self._stalled, self._said = row, time.monotonic()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Keep the record of goodput; where the run has failed, that is what is raised, whatever becomes of this."""
        with suppress(OSError) if kind else nullcontext():
            self._goodput.write()

    def summary(self) -> str:
        """Where time went; nothing where no step was reported."""
        if not self._last:
            return ""
        found = self._goodput.metrics()
        return f"{stalls.summary(self._last)}\ngoodput {100 * found['goodput']:.0f} % of {_time(found)}"


def line(row: Mapping[str, Any]) -> str:
    """A row of metrics as one line beside the progress."""
    waited = row["data_wait_seconds"] / (row["steps"] * row["step_seconds"])
    parts = [
        f"loss {row['loss']:.3f}",
        f"{row['samples_per_second']:,.{0 if row['samples_per_second'] >= 10 else 1}f} samples/s",
        *([f"MFU {100 * row['mfu']:.{0 if row['mfu'] >= 0.1 else 1}f} %"] if "mfu" in row else []),
        f"data wait {100 * waited:.0f} %",
        f"{row['samples']:,} samples",
    ]
    return "  ".join(parts)


def _time(found: Mapping[str, float]) -> str:
    restarts = int(found["restarts_total"])
    return duration(found["wall_seconds_total"]) + (f", {restarts} restarts" if restarts else "")
