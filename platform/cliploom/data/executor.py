"""How Ray Data's executor is made to run the stream: how far it reads ahead, and how often it looks.

By itself it begins no more tasks than there are CPUs for, and looks ten times a second at what has ended: till then a
CPU idles. Here a few more wait at Ray, which begins the next one when one ends. And while more is ready than was asked
for, its loop finds every task ended and nothing to do, and goes round again at once: half a core, which on a small
machine is taken from training.
"""

from __future__ import annotations

import time
from typing import Any

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.execution_callback import ExecutionCallback

_SHORTEST = 0.002  # seconds of rest, while tasks begin and end
_LONGEST = 0.2  # while nothing comes of the rounds; what is ready lasts longer
_WAITED = 0.05  # seconds of a round that waited for a task; it needs no rest
_AHEAD = "cliploom.ahead"


def configure(context: DataContext, ahead: int) -> None:
    """Have an execution keep order, and hold `ahead` blocks at most that wait for a CPU, are read or are ready."""
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = True
    context.custom_execution_callback_classes.append(Pace)
    context.op_resource_reservation_enabled = False  # shares out what `Ahead` does not ask for
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [Ahead])
    context.set_config(_AHEAD, ahead)


class Ahead(BackpressurePolicy):
    """Begins a task while there are fewer tasks and ready blocks than the bound."""

    def can_add_input(self, op: Any) -> bool:
        """Whether the operator may begin one."""
        held = op.metrics.num_tasks_running + self._topology[op].total_enqueued_output_blocks()
        return bool(held < self._data_context.get_config(_AHEAD))


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
