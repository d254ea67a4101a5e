"""Trying again, after growing pauses, for a bounded time."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

_DEFAULT_SECONDS = 120.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0  # seconds
T = TypeVar("T")
_log = logging.getLogger(__name__)


def retried(call: Callable[[], T], passing: type[Exception]) -> T:
    """`call()`, again and again while it raises an exception that may pass.

    Pauses double, and are shortened at random so that many processes don't come back at once. `CLIPLOOM_RETRY_SECONDS`
    says for how long (by default 120): no try begins later than that after the first.

    Raises:
        Whatever the last call raised.
    """
    end = time.monotonic() + float(os.environ.get("CLIPLOOM_RETRY_SECONDS") or _DEFAULT_SECONDS)
    pause = _FIRST_PAUSE
    while True:
        try:
            return call()
        except passing as error:
            wait = pause * random.uniform(0.5, 1)
            if time.monotonic() + wait > end:
                raise
            _log.warning("%s; trying again in %.1f s", error, wait)
            time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE)
