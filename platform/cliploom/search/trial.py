"""One trial: a training run by the training code itself, below the search's folder, measured at its checkpoints."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cliploom import config as configs
from cliploom import storage
from cliploom.config import Config
from cliploom.errors import InputError
from cliploom.search.records import LOSS, Measured
from cliploom.search.space import Settings, Value
from cliploom.search.tuner import Report, Start

_NEVER = 10_000_000  # minutes: checkpoints are where trials are measured, not by the clock


@dataclass(frozen=True)
class Training:
    """The work of a search's trials; see `tuner.Work`.

    Attributes:
        config: of the search.
        folder: URI of the search's.
        held_out: URI of the manifest that trials are measured on.
    """

    config: Config
    folder: str
    held_out: str

    def __call__(self, start: Start, report: Report, stop: threading.Event) -> None:
        from cliploom.search.branching import copy_checkpoint
        from cliploom.training.run import is_complete
        from cliploom.training.trainer import fit

        run = self.run(start.number, start.branch.settings, start.branch.generation)
        if start.branch.source:
            number, generation, step = start.branch.source
            copy_checkpoint(storage.join(self.folder, "trials", self.name(number, generation)), run.folder, step)
        watch = _Watch(self, run, {point["step"] for point in start.known}, report, stop)
        watch.catch_up()
        if not is_complete(run):
            fit(run, watch, stop)
        if watch.failure:
            raise watch.failure

    def name(self, number: int, generation: int = 0) -> str:
        """Of a trial's run."""
        return f"{self.config.run.name}-{number:03d}" + (f"-{generation}" if generation else "")

    def tidy(self, number: int, generation: int = 0) -> None:
        """Remove the checkpoints of a trial that has ended."""
        storage.delete(storage.join(self.folder, "trials", self.name(number, generation), "checkpoints"))

    def run(self, number: int, settings: Settings, generation: int = 0) -> Any:
        """A trial's training run.

        Raises:
            InputError: the settings make none.
        """
        from cliploom.training.run import plan_run

        config = trial_config(self.config, settings)
        place = {"run.name": self.name(number, generation), "run.storage": storage.join(self.folder, "trials")}
        run = plan_run(configs.replaced(config, place))
        steps = -(-run.steps // self.config.tune.evaluations)
        often = {"checkpoint_steps": steps, "checkpoint_minutes": _NEVER}
        kept = {"keep_checkpoints": self.config.tune.evaluations + 1}
        wanted = {f"train.{key}": value for key, value in {**often, **kept}.items()}
        return plan_run(configs.replaced(run.config, wanted))


def trial_config(config: Config, settings: Mapping[str, Value]) -> Config:
    """The training config of a trial: the search's, with the trial's settings in place of its own."""
    replacing: dict[str, Any] = dict(settings)
    for one, other in (("train.samples", "train.epochs"), ("train.epochs", "train.samples")):
        if one in settings:
            replacing[other] = None
    return configs.replaced(config, replacing)


class _Watch:
    """Gets a run's reports; at a checkpoint it measures, and passes that on with the rows since the last one."""

    def __init__(self, training: Training, run: Any, known: set[int], report: Report, stop: threading.Event) -> None:
        self._training, self._run, self._known = training, run, known
        self._report, self._stop = report, stop
        self._rows: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    def __call__(self, row: dict[str, Any]) -> None:
        if "loss" in row:
            self._rows.append(row)
        elif "checkpoint" in row and not self._stop.is_set():
            try:
                self._measure(row["checkpoint"])
            except Exception as error:  # called in a thread of the trainer's: raised when the run has stopped
                self.failure = error
                self._stop.set()

    def catch_up(self) -> None:
        """Measure at the checkpoints that a killed search had not come to."""
        from cliploom.training import checkpoint

        for found in reversed(checkpoint.committed(self._run.folder)):
            self._measure(found.progress.step)

    def _measure(self, step: int) -> None:
        run, tune = self._run, self._training.config.tune
        due = step == run.steps or step % run.config.train.checkpoint_steps == 0
        if step in self._known or not due:
            return
        from cliploom.search import measuring
        from cliploom.training.network import build

        network = build(run, measuring.checkpoint_state(run, step)).eval()
        objective = run.config.objective.name
        loss = measuring.held_out(run, self._training.held_out, tune).loss(network, objective)
        if not math.isfinite(loss):
            raise InputError(f"the held-out loss is {loss} after {step} steps: lower train.learning_rate")
        point: Measured = {"step": step, "samples": step * run.stream.global_batch_size, LOSS: loss}
        if tune.zeroshot:
            point["acc1"] = measuring.zeroshot(network, run, tune.zeroshot, tune.zeroshot_images)
        self._known.add(step)
        rows, self._rows = self._rows, []
        self._report({**point, "rows": rows})
