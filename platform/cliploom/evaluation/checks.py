"""Checks of a run while it trains: zero-shot tasks of a suite on its checkpoints, in a Ray task beside the workers.

Training goes on meanwhile. One checkpoint is looked at at a time; those that are committed before the look has ended
are passed over. The checkpoint with the best value so far stays, beside the last ones.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from cliploom import allocator, pools, storage
from cliploom.config import require
from cliploom.errors import InputError
from cliploom.evaluation import suite as suites
from cliploom.evaluation.datasets import Dataset
from cliploom.evaluation.features import extract_here
from cliploom.evaluation.findings import find
from cliploom.evaluation.model import Model, publish
from cliploom.evaluation.run import open_suite, sources
from cliploom.evaluation.store import FeatureStore
from cliploom.evaluation.suite import Entry, Suite, Task
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Best
from cliploom.training.run import Run, workers_range

_SHORT: dict[Task, str] = {"zeroshot_classification": "zeroshot", "zeroshot_retrieval": "retrieval"}
Log = Callable[[dict[str, float], int], None]


def checks_of(run: Run, log: Log, say: Callable[[str], None]) -> Checks | None:
    """The checks that a run's settings ask for.

    Raises:
        InputError: there is no such suite, it has no zero-shot task, or the cluster no room beside the workers.
    """
    if not run.config.train.evaluate_steps:
        return None
    require(run.config, "evaluate.suite")
    wanted = suites.load(str(run.config.evaluate.suite))
    return Checks(run, wanted, open_suite(wanted, run.config.evaluate.root), log, say)


@dataclass(frozen=True)
class Check:
    """What a checkpoint is measured on: the first entry's first metric decides which one is best."""

    run: Run
    entries: tuple[Entry, ...]  # with zero-shot tasks alone
    opened: tuple[Dataset, ...]

    def __call__(self, uri: str) -> dict[str, float]:
        """Metrics of the checkpoint in the folder `uri`, by name; the one that decides comes first."""
        settings = self.run.config.evaluate
        with tempfile.TemporaryDirectory() as folder:
            model = self._model(uri, Path(folder))
            store = FeatureStore(str(Path(folder, "features")), model.digest, "check")
            extract_here(sources(self.entries, self.opened), store, model, settings)
            bad = self.run.config.data.max_bad_fraction
            pairs = zip(self.entries, self.opened, strict=True)
            findings = [find(entry, dataset, store, model, bad) for entry, dataset in pairs]
        return {
            f"{_SHORT[task]}/{finding.dataset.name}/{measure.metric}": measure.estimate.value
            for finding in findings
            for task, measures in finding.measures.items()
            for measure in measures
        }

    def _model(self, uri: str, folder: Path) -> Model:
        from cliploom.training.loop import write_weights
        from cliploom.training.network import build

        found = next(found for found in checkpoint.committed(self.run.folder) if found.uri == uri)
        (folder / "weights").mkdir()
        write_weights(self.run, build(self.run, found.load()).state_dict(), folder / "weights")
        return publish(folder / "weights", str(folder / "model"), f"step {found.progress.step}")


class Checks:
    """Called with the step of each whole checkpoint, in the driver of a run; `finish` waits for the last check.

    Args:
        run: which trains; `train.evaluate_steps` says how often it is checked.
        suite: of which the zero-shot tasks are measured.
        opened: its data sets, from `evaluation.run.open_suite`.
        log: keeps metrics by step.
        say: prints a line.

    Raises:
        InputError: the suite has no zero-shot task, or the cluster no room beside the workers.
    """

    def __init__(self, run: Run, suite: Suite, opened: Sequence[Dataset], log: Log, say: Callable[[str], None]) -> None:
        self._check = _check(run, suite, opened)
        self._run, self._log, self._say = run, log, say
        _preflight(run)
        self._best = checkpoint.best(run.folder)
        self._begun = -math.inf  # the step of the last check
        self._thread: threading.Thread | None = None

    def __call__(self, step: int) -> None:
        """Check the checkpoint of this step, where one is due and none is being checked."""
        if step - self._begun < (self._run.config.train.evaluate_steps or math.inf):
            return
        if self._thread and self._thread.is_alive():
            self._say(f"step {step} is not checked: step {self._begun:.0f} still is")
            return
        uri = next((one.uri for one in checkpoint.committed(self._run.folder) if one.progress.step == step), None)
        if uri is None:
            return  # it is gone: the last N are other ones already
        self._begun = step
        checkpoint.keep_also(self._run.folder, self._best, [storage.name(uri)])
        self._thread = threading.Thread(target=self._measure, args=(uri, step), name="check", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the check that runs."""
        if self._thread:
            self._thread.join()

    def _measure(self, uri: str, step: int) -> None:
        settings = self._run.config.evaluate
        task: Any = ray.remote(_on_node).options(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            label_selector=pools.selector(settings.pool),
            runtime_env=allocator.RUNTIME_ENV,
        )
        try:
            metrics: dict[str, float] = ray.get(task.remote(self._check, uri))
        except ray.exceptions.RayError as error:
            self._say(f"step {step} could not be checked: {str(error).strip().splitlines()[-1]}")
        else:
            self._log(metrics, step)
            name, value = next(iter(metrics.items()))
            if self._best is None or self._best.metric != name or value > self._best.value:
                self._best = Best(storage.name(uri), step, name, value)
            self._say(f"step {step}  {name} {value:.4f}, best {self._best.value:.4f} at step {self._best.step}")
        checkpoint.keep_also(self._run.folder, self._best, [])


def _on_node(check: Check, uri: str) -> dict[str, float]:
    return check(uri)


def _check(run: Run, suite: Suite, opened: Sequence[Dataset]) -> Check:
    """The zero-shot part of a suite."""
    kept: list[tuple[Entry, Dataset]] = []
    for entry, dataset in zip(suite.entries, opened, strict=True):
        if tasks := tuple(task for task in entry.tasks if task in _SHORT):
            kept.append((entry.model_copy(update={"tasks": tasks}), replace(dataset, training=(), validation=())))
    if not kept:
        raise InputError(f"evaluate.suite: {suite.name} has no zero-shot task, by which train.evaluate_steps checks")
    return Check(run, tuple(entry for entry, _ in kept), tuple(dataset for _, dataset in kept))


def _preflight(run: Run) -> None:
    """Where checks share the nodes of training, there must be room beside workers and a decoding task."""
    train, data, settings = run.config.train, run.config.data, run.config.evaluate
    shares = pools.selector(train.pool) == pools.selector(settings.pool)
    there, workers = pools.capacity(settings.pool), workers_range(run.config)[0] if shares else 0
    for kind, needed, taken in (
        ("CPU", settings.cpus_per_worker, workers * train.cpus_per_worker + (data.cpus_per_task if shares else 0)),
        ("GPU", settings.gpus_per_worker, workers * train.gpus_per_worker),
    ):
        if needed > there.get(kind, 0) - taken:
            raise InputError(
                f"train.evaluate_steps needs evaluate.{kind.lower()}s_per_worker={needed:g} beside training, which "
                f"leaves {max(0.0, there.get(kind, 0) - taken):g} {kind}s: lower it or train.workers, or leave "
                "train.evaluate_steps out"
            )
