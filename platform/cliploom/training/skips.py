"""Steps whose loss or gradient is not finite: skipped by a decision that is written down at once and kept from then on.

A run's folder holds `skipped/00000013.json`: {step, cause, positions of the plan, samples by SHARD#KEY}. An attempt
that takes the step again, from a checkpoint before it, skips it again whatever it finds: on another number of workers
the numbers may differ in their last digits. What stops a run is counted anew in each attempt, without the steps that
were decided before, so that a run that was stopped goes on behind them once its settings are mended.
"""

from __future__ import annotations

import json
from typing import Any

import torch.distributed as dist

from cliploom import storage
from cliploom.errors import InputError


class Skips:
    """The skipped steps of a run. All workers must make one, and call it, at the same time.

    Args:
        folder: URI of the run's.
        known: those before the attempt's first step, from its checkpoint.
        first_step: of the attempt.
    """

    def __init__(self, folder: str, known: list[dict[str, Any]], first_step: int) -> None:
        self._folder = storage.join(folder, "skipped")
        self.known = list(known)
        read: list[Any] = [self._read(first_step) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(read)
        self._decided: dict[int, str] = read[0]
        self._new: list[int] = []

    def _read(self, first_step: int) -> dict[int, str]:
        found = [json.loads(storage.read(file.uri)) for file in storage.files(self._folder)]
        return {row["step"]: row["cause"] for row in found if row["step"] >= first_step}

    def decided(self, step: int) -> str | None:
        """Why an earlier attempt skipped the step, which binds this one."""
        return self._decided.get(step)

    def add(self, step: int, cause: str, positions: list[int], samples: list[str]) -> None:
        """Write down that `step` is skipped.

        Args:
            step: which.
            cause: why.
            positions: [start, stop) of the plan.
            samples: this worker's samples of the step, by name.
        """
        everyone: list[list[str]] = [[]] * dist.get_world_size()
        dist.all_gather_object(everyone, samples)
        row = {"step": step, "cause": cause, "positions": positions}
        self.known.append(row)
        if step in self._decided:
            return
        self._new.append(step)
        if dist.get_rank() == 0:
            named = row | {"samples": [name for names in everyone for name in names]}
            storage.write(storage.join(self._folder, f"{step:08d}.json"), json.dumps(named).encode())

    def check(self, step: int, most: int) -> None:
        """Stop where the last `most` steps before `step` were skipped.

        Raises:
            InputError: they were.
        """
        last = self._new[-most:]
        if last == list(range(step - most, step)):
            raise InputError(
                f"the loss or gradient of {most} steps in a row, {last[0]} to {last[-1]}, is not finite: lower "
                "train.learning_rate and run the job again to go on behind them; "
                f"their samples are listed in {self._folder}"
            )
