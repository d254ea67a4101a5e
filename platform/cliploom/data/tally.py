"""Progress of work whose end is not known beforehand: a live line on a terminal, plain lines at intervals elsewhere."""

from __future__ import annotations

import sys
import time

_INTERVAL = 10.0  # seconds between plain lines


class Tally:
    """Counts what is done; a context manager."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._done = 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Tally:
        self._status = None
        if sys.stdout.isatty():
            from rich.console import Console

            self._status = Console().status(self._line())
        if self._status:
            self._status.start()
        return self

    def add(self, count: int) -> None:
        """`count` more are done."""
        self._done += count
        if self._status:
            self._status.update(self._line())
        elif time.monotonic() - self._said >= _INTERVAL:
            self._say()

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()
        self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        print(self._line(), flush=True)

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-3)
        return f"{self._title}: {self._done} {self._unit}, {self._done / seconds:.0f} a second"
