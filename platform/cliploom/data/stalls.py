"""Where the time of a training run goes that is not spent on training: seconds waited, by cause, and the mend."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

MENDS = {
    "read": "put the shards nearer to the workers, or raise CLIPLOOM_CACHE_GB so that fewer are fetched again",
    "decode": "resize the images at rest (prepare.resize), or give decoding more CPUs",
    "tokenize": "give decoding more CPUs",
    "transfer": "raise data.prefetch, so that batches are on their way earlier",
    "device": "nothing is wrong with the data: train.compile=true, or bf16 where the device has it, may help",
    "collective": "raise train.micro_batch_size, lower train.zero_stage, or put the workers on a faster network",
}


_ELAPSED = "stall/elapsed_seconds"


class Work(NamedTuple):
    """Seconds that a decoding task spent on a micro-batch."""

    read: float = 0.0
    decode: float = 0.0
    tokenize: float = 0.0


class Stalls:
    """Seconds that a worker has waited since it was made, by cause: a key of MENDS each."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(MENDS, 0.0)
        self._began = time.perf_counter()

    def add(self, cause: str, seconds: float) -> None:
        """Count time waited for one cause."""
        self.seconds[cause] += seconds

    def add_data(self, seconds: float, work: Work) -> None:
        """Count time waited for data, shared out as its tasks' time; what came without work was on its way."""
        total = sum(work)
        if total == 0:
            self.add("transfer", seconds)
            return
        for cause, spent in work._asdict().items():
            self.add(cause, seconds * spent / total)

    def metrics(self) -> dict[str, float]:
        """Seconds by stable names: `stall/read_seconds` and so on, and `stall/elapsed_seconds`, waited or not."""
        waited = {_name(cause): seconds for cause, seconds in self.seconds.items()}
        return waited | {_ELAPSED: time.perf_counter() - self._began}


def summary(metrics: Mapping[str, float]) -> str:
    """One line: `waiting 12 % (decode 71 %, read 20 %, ...): MEND`, the causes as shares of all waiting.

    Args:
        metrics: of `Stalls`, among others.
    """
    seconds = {cause: metrics[_name(cause)] for cause in MENDS}
    elapsed, waited = metrics[_ELAPSED], sum(seconds.values())
    if waited < 0.005 * elapsed or elapsed <= 0:
        return "waiting 0 %"
    causes = sorted((cause for cause in seconds if seconds[cause] >= 0.005 * waited), key=lambda c: -seconds[c])
    shares = ", ".join(f"{cause} {100 * seconds[cause] / waited:.0f} %" for cause in causes)
    return f"waiting {100 * waited / elapsed:.0f} % ({shares}): {MENDS[causes[0]]}"


def between(then: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """What was waited from one moment to another one of the same `Stalls`, as metrics; `then` may be empty."""
    return {name: now[name] - then.get(name, 0.0) for name in (*map(_name, MENDS), _ELAPSED)}


def _name(cause: str) -> str:
    return f"stall/{cause}_seconds"
