"""The training loop of one worker. Knows nothing of Ray or MLflow: batches come in, reports go out."""

from __future__ import annotations

import json
import math
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cliploom import objectives, storage
from cliploom.data import vocabulary as vocabularies
from cliploom.data.plan import DIGEST_RANGE, WorkItem, digest, kept_patches, micro_batches, rank_span
from cliploom.data.reader import Batch, Fault, reader
from cliploom.data.stalls import Stalls
from cliploom.errors import InputError
from cliploom.objectives import Ranks
from cliploom.training.checkpoint import Attempt, Checkpoint, Progress
from cliploom.training.engine import Engine
from cliploom.training.meter import Meter
from cliploom.training.network import build
from cliploom.training.profiling import Profile
from cliploom.training.run import Run, note_export
from cliploom.training.saver import Saver
from cliploom.training.schedule import learning_rate
from cliploom.training.skips import Skips
from cliploom.training.step import MicroBatch, loss_and_gradients
from cliploom.training.watchdog import Watchdog

_FEWEST_VISITS = 1000  # the share of unreadable samples is of at least so many
Report = Callable[[dict[str, Any]], None]


class Agreed(NamedTuple):
    """What all workers know of a step."""

    faults: int  # samples replaced
    save: bool  # a checkpoint is due by the clock
    stop: bool  # somebody asked to stop
    digest: int  # of which samples the global batch is made of


class Loop:
    """Trains a run from an attempt's first step to its end.

    Args:
        run: what is trained.
        attempt: this start of it, the same on all workers.
        found: the checkpoint that the attempt goes on from.
        report: gets a row of metrics now and then, a row with `bad` that counts unreadable samples by cause, and a
            row with `checkpoint` when one is whole; called on rank 0 alone, the last in another thread.
        stop: set on any worker, it ends the training after the step that is being taken, with a checkpoint.
        watchdog: watches each step.
    """

    def __init__(
        self,
        run: Run,
        attempt: Attempt,
        found: Checkpoint | None,
        report: Report,
        stop: threading.Event,
        watchdog: Watchdog,
    ) -> None:
        self.run, self.attempt, self.report, self.stop, self.watchdog = run, attempt, report, stop, watchdog
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        batch_size = run.stream.global_batch_size
        spans = [rank_span(batch_size, self.world, rank) for rank in range(self.world)]
        self.ranks = Ranks([stop - start for start, stop in spans], self.rank)
        self.micro_count, _ = micro_batches(batch_size, self.world, run.stream.micro_batch_size)
        state = found.load() if found else None
        self.engine = Engine(build(run, state), run.config.train)
        if found and state:
            self.engine.load_state(state, found.progress.optimizer_steps)
        self.objective = objectives.objective(run.config.objective.name)
        before = found.progress if found else None
        self.step = attempt.step
        self.optimizer_steps = before.optimizer_steps if before else 0
        self.bad_visits = before.bad_visits if before else 0
        self.skips = Skips(run.folder, before.skipped if before else [], attempt.step)
        self.faults = {Fault(**fault) for fault in before.faults} if before else set()
        self.stalls = Stalls()
        self.meter = Meter(run, self.engine.device)
        self.profile = Profile(
            run.config.train.profile_steps if self.rank == 0 else None,
            storage.join(run.folder, "profile"),
            lambda uri: report({"artifact": uri}),
        )
        self.saver = Saver(
            run.folder, attempt, run.config.train.keep_checkpoints, lambda step: report({"checkpoint": step})
        )
        self.saved_at = time.monotonic()
        self.rows: list[dict[str, Any]] = []  # reported since the last checkpoint
        self.agreed = Agreed(faults=0, save=False, stop=False, digest=0)

    def train(self, batches: Iterator[tuple[WorkItem, Batch]]) -> bool:
        """Take all steps that are left, with checkpoints on the way; whether it came to the end.

        Raises:
            InputError: too many samples can't be read, or too many steps in a row are not finite.
            SaveError: a checkpoint could not be written.
        """
        settings = self.run.config.train
        while self.step < self.run.steps and not self.agreed.stop:
            number = self.step + 1
            with (
                self.watchdog.watching(f"step {number}", self._longest()),
                self.meter.step(),
                self.profile.step(number),
            ):
                metrics = self._take_step(batches)
            self.skips.check(self.step, settings.max_skipped)
            self.saver.check()
            done = self.step == self.run.steps
            if self.step % settings.log_steps == 0 or done or self.step == self.attempt.step + 1:
                self._tell(metrics | self.meter.metrics())
            if self.step % settings.checkpoint_steps == 0 or done or self.agreed.save or self.agreed.stop:
                self._save()
        self.saver.finish()
        return self.step == self.run.steps

    def _longest(self) -> float:
        """Seconds that the next step may take."""
        settings = self.run.config.train
        first = self.step == self.attempt.step
        return 60 * (settings.start_timeout_minutes if first else settings.timeout_minutes)

    def _take_step(self, batches: Iterator[tuple[WorkItem, Batch]]) -> dict[str, float]:
        settings = self.run.config.train
        received = [self._receive(batches) for _ in range(self.micro_count)]
        self._count(received)
        micros = [self._micro_batch(batch) for batch in received]
        loss_of = self.objective.loss
        decided = self.skips.decided(self.step)

        def usable(loss: Tensor) -> bool:
            return decided is None and bool(torch.isfinite(loss))

        result = loss_and_gradients(self.engine, micros, self.ranks, settings.text_buckets, loss_of, usable)
        rate = learning_rate(self.step, self.run.steps, self.run.warmup_steps, settings.learning_rate)
        loss, norm = float(result.loss), math.nan
        if usable(result.loss):
            norm = self.engine.step(rate)
        else:
            self.engine.skip()
        if math.isfinite(norm):
            self.optimizer_steps += 1
        else:
            cause = "gradient" if math.isfinite(loss) else "loss"
            self._skip(decided or f"{cause} is not finite", received)
        self.step += 1
        return {
            "loss": loss,
            **dict(zip(self.objective.shared, result.shared.tolist(), strict=True)),
            "learning_rate": rate,
            "gradient_norm": norm,
        }

    def _skip(self, cause: str, received: list[Batch]) -> None:
        first = self.step * self.run.stream.global_batch_size
        manifest = reader(self.run.stream.source).manifest
        names = [
            f"{manifest.shards[shard].uri}#{manifest.index(shard).keys[index]}"
            for batch in received
            for _, shard, index in batch.samples.tolist()
            if shard >= 0
        ]
        self.skips.add(self.step, cause, [first, first + self.run.stream.global_batch_size], names)

    def _receive(self, batches: Iterator[tuple[WorkItem, Batch]]) -> Batch:
        began = time.perf_counter()
        _, batch = next(batches)
        seconds = time.perf_counter() - began
        self.meter.add(seconds, batch.tokens)
        self.stalls.add_data(seconds, batch.work)
        return batch

    def _micro_batch(self, batch: Batch) -> MicroBatch:
        patches = None
        if kept := self.run.kept_patches:
            total = self.run.model.grid_size**2
            patches = torch.from_numpy(kept_patches(self.run.stream.source.seed, batch.samples, total, kept))
        return MicroBatch(torch.from_numpy(batch.pixels), torch.from_numpy(batch.tokens), patches)

    def _count(self, received: list[Batch]) -> None:
        """Count replaced samples over all workers, and stop where they are too many; tell which make the batch."""
        new = [fault for batch in received for fault in batch.faults]
        self.faults.update(new)
        samples = np.concatenate([batch.samples for batch in received])
        began = time.perf_counter()
        self.agreed = self._agree(len(new), digest(samples, self.ranks.start))
        self.stalls.add("collective", time.perf_counter() - began)  # here who is early waits for who is late
        self.bad_visits += self.agreed.faults
        visits = max((self.step + 1) * self.run.stream.global_batch_size, _FEWEST_VISITS)
        if self.bad_visits > self.run.config.data.max_bad_fraction * visits:
            self._gather_faults()
            raise InputError(self._too_many(visits))

    def _agree(self, faults: int, samples: int) -> Agreed:
        """What the workers together have found in this step, so that all do the same after it."""
        minutes = self.run.config.train.checkpoint_minutes
        due = self.rank == 0 and time.monotonic() - self.saved_at >= 60 * minutes
        mine = torch.tensor([faults, due, self.stop.is_set(), samples], device=self.engine.device)
        total, save, stop, parts = self.ranks.sum(mine).tolist()
        return Agreed(total, save > 0, stop > 0, parts % DIGEST_RANGE)

    def _too_many(self, visits: int) -> str:
        shards = sorted({fault.shard for fault in self.faults})
        named = ", ".join(shards[:3]) + (f" and {len(shards) - 3} more" if len(shards) > 3 else "")
        return (
            f"{self.bad_visits} of {visits} samples can't be read, above "
            f"data.max_bad_fraction={self.run.config.data.max_bad_fraction}; they are in {named}; "
            f"all are listed in {self._bad_list()}"
        )

    def _gather_faults(self) -> list[dict[str, str]]:
        """All workers' unreadable samples; rank 0 writes their list beside the run."""
        if self.bad_visits == 0:  # the same on all workers; a save must not wait for others
            return []
        everyone: list[set[Fault]] = [set()] * self.world
        dist.all_gather_object(everyone, self.faults)
        self.faults = set().union(*everyone)
        rows = [asdict(fault) for fault in sorted(self.faults, key=lambda f: (f.shard, f.key))]
        if rows and self.rank == 0:
            storage.write(self._bad_list(), "".join(json.dumps(row) + "\n" for row in rows).encode())
            self.report({"bad": Counter(row["cause"] for row in rows), "step": self.step})
        return rows

    def _bad_list(self) -> str:
        return storage.join(self.run.folder, "bad.jsonl")

    def _save(self) -> None:
        progress = Progress(
            step=self.step,
            samples=self.step * self.run.stream.global_batch_size,
            optimizer_steps=self.optimizer_steps,
            data_fingerprint=self.run.stream.source.fingerprint,
            settings=self.run.settings,
            skipped=self.skips.known.copy(),
            bad_visits=self.bad_visits,
            faults=self._gather_faults(),
            rows=self.rows,
        )
        self.saver.save(progress, self.engine.snapshot())
        self.rows = []
        self.saved_at = time.monotonic()

    def export(self) -> None:
        """Write the trained weights where `cliploom.load` and the registry take them from."""
        weights = self.engine.weights()
        if self.rank == 0:
            save_weights(self.run, weights)
        dist.barrier()

    def _tell(self, metrics: dict[str, float]) -> None:
        if self.rank == 0:
            row = {
                **metrics,
                **self.stalls.metrics(),
                "attempt": self.attempt.number,
                "step": self.step,
                "samples": self.step * self.run.stream.global_batch_size,
                "bad_visits": self.bad_visits,
                "skipped_steps": len(self.skips.known),
                "batch_digest": self.agreed.digest,
            }
            self.rows.append(row)
            self.report(row)


def write_weights(run: Run, weights: dict[str, Tensor], folder: Path) -> None:
    """Write a state dict, and the run's own vocabulary where it has one, into a local folder."""
    objectives.save_state(run.config.objective.name, weights, run.model, folder)
    if uri := run.stream.source.vocabulary:
        packed = vocabularies.load(uri, run.stream.source.vocabulary_digest).pack()
        (folder / vocabularies.NAME).write_bytes(packed)


def save_weights(run: Run, weights: dict[str, Tensor]) -> None:
    """Write a state dict as the run's exported model."""
    with tempfile.TemporaryDirectory() as folder:
        write_weights(run, weights, Path(folder))
        for file in sorted(Path(folder).iterdir()):
            storage.upload(file, storage.join(run.export, file.name))
    note_export(run)
