"""A worker that hangs: where each of its threads stands is written down, and its process ends."""

from __future__ import annotations

import faulthandler
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cliploom import storage
from cliploom.progress import duration

_GRACE_SECONDS = 10.0  # for the other workers to write down theirs, before this one's end disturbs them
log = logging.getLogger(__name__)


class Watchdog:
    """Ends this process when something takes too long.

    One worker that hangs leaves all others waiting in the next collective, so each worker's own watchdog notices.

    Args:
        place: URI of the file that gets the stacks.
        tell: called with a line that says what took too long.
    """

    def __init__(self, place: str, tell: Callable[[str], None]) -> None:
        self._place, self._tell = place, tell
        self._changed = threading.Condition()
        self._what, self._seconds, self._end = "", 0.0, float("inf")
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def watching(self, what: str, seconds: float) -> Iterator[None]:
        """End the process if the block, which is called `what`, takes more than `seconds`."""
        self._set(what, seconds)
        try:
            yield
        finally:
            self._set("", float("inf"))

    def _set(self, what: str, seconds: float) -> None:
        with self._changed:
            self._what, self._seconds, self._end = what, seconds, time.monotonic() + seconds
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while (left := self._end - time.monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            line = f"{self._what} took more than {duration(self._seconds)}; its stacks are in {self._place}"
        try:
            self._write(line)
            self._tell(line)
            time.sleep(_GRACE_SECONDS)
        finally:
            os._exit(1)  # an exception would not be noticed by threads that wait in a collective

    def _write(self, line: str) -> None:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            stacks = file.read()
        log.error("%s\n%s", line, stacks)
        try:
            storage.write(self._place, f"{line}\n\n{stacks}".encode())
        except OSError as error:  # it may be what everything waits for
            log.error("the stacks can't be written: %s", error)
