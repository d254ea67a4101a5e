"""A brake on Ray Data's scheduling loop.

While more batches are ready than the workers have asked for, the loop finds every task finished and nothing to do, and
goes round again at once: half a core, which on a small machine is taken from training.
"""

from __future__ import annotations

import time
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

_SECONDS = 0.02  # a round handles all tasks that have finished since the last, so the delay costs no throughput


class Pace(ExecutionCallback):
    """Rests after each round of the loop."""

    def on_execution_step(self, executor: Any) -> None:
        """Rest."""
        time.sleep(_SECONDS)
