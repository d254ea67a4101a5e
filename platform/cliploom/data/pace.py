"""A brake on Ray Data's scheduling loop.

While more batches are ready than the workers have asked for, the loop finds every task finished and nothing to do, and
goes round again at once: half a core, which on a small machine is taken from training.
"""

from __future__ import annotations

import time
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

_SHORTEST = 0.002  # seconds of rest, while tasks begin and end: a CPU waits for the round that gives it the next one
_LONGEST = 0.2  # while nothing comes of the rounds; what is ready lasts longer
_WAITED = 0.05  # seconds of a round that waited for a task; it needs no rest


class Pace(ExecutionCallback):
    """Rests after each round of the loop, the longer the longer nothing comes of them."""

    def __init__(self) -> None:
        self._moved, self._rest, self._began = -1, _SHORTEST, time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        """Rest."""
        metrics = [operator.metrics for operator in executor._topology]
        moved = sum(each.num_tasks_submitted + each.num_tasks_finished + each.num_outputs_taken for each in metrics)
        busy = moved != self._moved or time.monotonic() - self._began > _WAITED
        self._moved, self._rest = moved, _SHORTEST if busy else min(2 * self._rest, _LONGEST)
        time.sleep(self._rest)
        self._began = time.monotonic()
