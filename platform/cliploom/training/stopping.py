"""Why a run ends before its last step: somebody sends SIGTERM, or its time is over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop(threading.Event):
    """Set once a run is to save a checkpoint and end; `cause` is what asked for it first."""

    cause = ""

    def ask(self, cause: str) -> None:
        """Ask the run to end."""
        self.cause = self.cause or cause
        self.set()


@contextmanager
def stopping(hours: float | None) -> Iterator[Stop]:
    """What SIGTERM to this process sets for as long as the block runs, as do so many hours of it.

    Of a process's main thread alone. Ray takes the signal for itself when it is connected, so connect before.
    """
    stop = Stop()
    timer = threading.Timer(3600 * (hours or 0), stop.ask, ["train.max_hours"])
    timer.daemon = True
    before = signal.signal(signal.SIGTERM, lambda *_: stop.ask("SIGTERM"))
    if hours:
        timer.start()
    try:
        yield stop
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
