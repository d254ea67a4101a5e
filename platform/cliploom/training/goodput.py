"""Goodput: how much of a run's time went into steps that count, over all its attempts.

Productive are the seconds of steps, without the waiting for data; a step that is taken again after a fault counts once.
Wall time is that of the jobs that trained the run: start-up, saves, restarts and steps lost are in it, the time in
which no job ran is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cliploom import storage
from cliploom.errors import InputError

_FILE = "goodput.json"
_INTERVAL_SECONDS = 30.0  # between writes of the record; so much of a killed job's time may be missing


class Goodput:
    """A run's, kept in its folder; made where a job begins to train."""

    def __init__(self, folder: str) -> None:
        self._place = storage.join(folder, _FILE)
        before = read(folder)
        self._productive, self._waited = before.get("productive_seconds", 0.0), before.get("data_wait_seconds", 0.0)
        self._wall, self._farthest = before.get("wall_seconds", 0.0), int(before.get("step", 0))
        self._restarts = int(before.get("restarts", 0))
        self._began = self._written = time.monotonic()

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row of metrics (`Meter.metrics` with `step` and `attempt`), and write the record now and then."""
        new = max(0, row["step"] - max(self._farthest, row["step"] - row["steps"]))
        self._productive += row["productive_seconds"] * new / row["steps"]
        self._waited += row["data_wait_seconds"]
        self._farthest = max(self._farthest, row["step"])
        self._restarts = max(self._restarts, row["attempt"] - 1)
        if time.monotonic() - self._written >= _INTERVAL_SECONDS:
            with suppress(OSError):  # the next record holds all of this one, and the last one must be kept
                self.write()

    def metrics(self) -> dict[str, float]:
        """By their stable names; seconds, and `goodput` from 0 to 1."""
        wall = self._wall + time.monotonic() - self._began
        return {
            "goodput": self._productive / wall if wall > 0 else 0.0,
            "productive_seconds_total": self._productive,
            "data_wait_seconds_total": self._waited,
            "wall_seconds_total": wall,
            "restarts_total": self._restarts,
        }

    def write(self) -> None:
        """Keep the record."""
        self._written = time.monotonic()
        record = {
            "format_version": 1,
            "step": self._farthest,
            "productive_seconds": self._productive,
            "data_wait_seconds": self._waited,
            "wall_seconds": self._wall + self._written - self._began,
            "restarts": self._restarts,
        }
        storage.write(self._place, (json.dumps(record, indent=1) + "\n").encode())


def hours_left(folder: str, most: float | None) -> float | None:
    """Of the `most` hours that a run's jobs may take together; None where there is no limit.

    Raises:
        InputError: none are left.
    """
    if most is None:
        return None
    left = most - read(folder).get("wall_seconds", 0.0) / 3600
    if left <= 0:
        raise InputError(f"{storage.name(folder)} has had its train.max_hours={most:g}: raise it to go on")
    return left


def read(folder: str) -> dict[str, float]:
    """A run's record; empty where there is none."""
    try:
        found: dict[str, float] = json.loads(storage.read(storage.join(folder, _FILE)))
    except FileNotFoundError:
        return {}
    return found
