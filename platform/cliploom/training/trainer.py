"""Ray Train: workers that run the loop, fed by the stream, started again after faults."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cliploom import allocator, pools, storage
from cliploom.config import Config
from cliploom.data.stream import settle
from cliploom.errors import InputError
from cliploom.training import checkpoint, memory
from cliploom.training.board import DIED, HUNG, RAISED, SHORT_OF_MEMORY, Board, GaveUpError, Place
from cliploom.training.checkpoint import Attempt, Checkpoint
from cliploom.training.run import Run, is_complete, workers_range
from cliploom.training.saver import SaveError
from cliploom.training.watchdog import Watchdog

log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
# Ray Train takes a node that is draining, or is just gone, for room; it looks again when it has waited so long.
_ROOM_SECONDS = "15"
Report = Callable[[dict[str, Any]], None]


class DrainedError(Exception):
    """A node of the workers is about to go away; the state is saved."""


@dataclass(frozen=True)
class Worker:
    """What Ray Train runs in each worker."""

    run: Run
    board: Any

    def __call__(self) -> None:
        rank = ray.train.get_context().get_world_rank()
        try:
            self._work()
        except (InputError, SaveError, GaveUpError) as error:  # another try would end the same way
            ray.get(self.board.give_up.remote(error))
            raise  # the other workers may be waiting for this one
        except Exception as error:
            if memory.is_short(error):
                train = self.run.config.train
                line = f"worker {rank} has no memory left at train.micro_batch_size={train.micro_batch_size}"
                ray.get(self.board.give_up.remote(InputError(f"{line}: {SHORT_OF_MEMORY} ({error})")))
            ray.get(self.board.tell.remote(rank, RAISED, f"{type(error).__name__}: {error}"))
            raise

    def _work(self) -> None:
        import torch

        from cliploom.data.stream import batches
        from cliploom.training.loop import Loop
        from cliploom.training.usage import Usage

        torch.set_num_threads(max(1, int(self.run.config.train.cpus_per_worker)))
        context = ray.train.get_context()
        rank, places = context.get_world_rank(), _places()
        begun = self._begin(places)
        if begun is None:
            return
        attempt, found = begun
        split = self.run.stream.split(attempt.step, len(places))[rank]
        stop = threading.Event()
        if rank == 0:
            threading.Thread(target=self._watch, args=(stop, places), name="stop", daemon=True).start()
        stacks = storage.join(self.run.folder, "hangs", f"{attempt.number:04d}-{rank}.txt")
        watchdog = Watchdog(stacks, lambda line: ray.get(self.board.tell.remote(rank, HUNG, line)))
        with Usage(self._report) if context.get_local_rank() == 0 else nullcontext():
            ready = batches(split, self.run.config.data.prefetch)  # reading begins while the engine is made
            loop = Loop(self.run, attempt, found, self._report, stop, watchdog)
            done = loop.train(ready)
            if done:
                loop.export()
        if not done and not ray.get(self.board.is_stopping.remote()):
            raise DrainedError

    def _begin(self, places: list[Place]) -> tuple[Attempt, Checkpoint | None] | None:
        """Begin an attempt on rank 0, and tell the other workers which; none where there is nothing more to do."""
        import torch.distributed as dist

        begun: list[tuple[Attempt, Checkpoint | None] | None] = [None]
        if dist.get_rank() == 0 and not ray.get(self.board.is_over.remote()):
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - _draining()
            reason = ray.get(self.board.begin.remote(places, alive))
            if error := ray.get(self.board.error.remote()):
                raise error
            attempt, found = checkpoint.begin(self.run.folder, len(places), reason)
            if reason:
                self._report({"restart": reason, "step": attempt.step, "workers": len(places)})
            elif found:
                for row in checkpoint.rows(self.run.folder, attempt.step):
                    self._report({"before": row})
            begun = [(attempt, found)]
        dist.broadcast_object_list(begun)
        return begun[0]

    def _report(self, row: dict[str, Any]) -> None:
        self.board.pin.remote(row)

    def _watch(self, stop: threading.Event, places: list[Place]) -> None:
        """Stop after a step when the driver asks for it, or when a node is about to go away."""
        nodes = {place.node for place in places}
        while not (ray.get(self.board.is_stopping.remote()) or nodes & _draining()):
            time.sleep(_POLL_SECONDS)
        stop.set()


@dataclass(frozen=True)
class Witness(ray.train.UserCallback):
    """Tells the board of workers that have died without a word; Ray Train's controller calls it."""

    board: Any

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called with the exceptions by rank."""
        for rank, error in worker_exceptions.items():
            death = getattr(error, "health_check_failure", None)
            if isinstance(death, ray.exceptions.RayActorError):
                ray.get(self.board.tell.remote(rank, DIED, _how_it_died(death)))


def needs(config: Config) -> dict[str, float]:
    """What a run takes of the connected cluster's nodes that train, at least; by Ray's names of resources."""
    train, data, workers = config.train, config.data, workers_range(config)[0]
    decoding = data.cpus_per_task if pools.selector(data.pool) == pools.selector(train.pool) else 0
    return {
        "CPU": workers * train.cpus_per_worker + decoding,
        "GPU": workers * train.gpus_per_worker,
        "memory": workers * train.memory_gb_per_worker * 2**30,
    }


def preflight(run: Run) -> None:
    """Check that the cluster has what the run asks for, since Ray would wait for it without end.

    Raises:
        InputError: it has not; names the setting.
    """
    there, workers = pools.capacity(run.config.train.pool), workers_range(run.config)[0]
    for resource, amount in needs(run.config).items():
        if amount > there.get(resource, 0):
            unit = 2**30 if resource == "memory" else 1
            raise InputError(
                f"{workers} workers and data.cpus_per_task need {amount / unit:g} {resource}, the cluster has "
                f"{there.get(resource, 0) / unit:g}: lower {_KEYS[resource]} or train.workers, or add nodes"
            )


_KEYS = {
    "CPU": "train.cpus_per_worker, data.cpus_per_task",
    "GPU": "train.gpus_per_worker",
    "memory": "train.memory_gb_per_worker",
}


def fit(run: Run, report: Report, stop: threading.Event) -> bool:
    """Train `run` to its end on the connected cluster, or until it is asked to stop.

    Args:
        run: what to train.
        report: gets the rows that workers report, in this process: metrics by name with `step` and `samples`, or
            `checkpoint` with a committed step, `bad` with counts by cause and `step`, `artifact` with a file's URI,
            `system` with metrics of a `node`, `restart` with a reason, and `step` and `workers` from then on, or
            `before` with metrics that a job before may have taken along when it was killed.
        stop: when it is set, the workers end their step and save a checkpoint, from which the run goes on when it is
            fitted again.

    Returns:
        Whether it came to the end.

    Raises:
        InputError: the run can't go on until the user has mended something.
        SaveError: a checkpoint could not be written.
        GaveUpError: workers failed, or nodes went away, more often than the settings allow.
    """
    preflight(run)
    settle()
    train = run.config.train
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = (
        ray.remote(Board)
        .options(num_cpus=0, scheduling_strategy=here)  # no node but the driver's must take it away
        .remote(train.max_failures, train.max_preemptions)
    )
    low, high = workers_range(run.config)
    resources = {"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker}
    if train.memory_gb_per_worker:
        resources["memory"] = train.memory_gb_per_worker * 2**30
    trainer = TorchTrainer(
        Worker(run, board),
        torch_config=TorchConfig(
            backend="nccl" if train.gpus_per_worker else "gloo",
            timeout_s=60 + math.ceil(60 * max(train.timeout_minutes, train.start_timeout_minutes)),  # watchdogs first
        ),
        scaling_config=ray.train.ScalingConfig(
            label_selector=pools.selector(train.pool) or None,  # type: ignore[call-arg]
            num_workers=low if low == high else (low, high),  # type: ignore[arg-type]
            use_gpu=train.gpus_per_worker > 0,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=train.resize_seconds,
        ),
        run_config=ray.train.RunConfig(
            name=f"{run.config.run.name}-{len(checkpoint.read_attempts(run.folder)):04d}",
            storage_path=_ray_storage(run),
            # Ray Train takes a node that is lost without notice for a failure: the board counts for itself.
            failure_config=ray.train.FailureConfig(
                max_failures=train.max_failures + train.max_preemptions,
                max_preemption_failures=-1,  # type: ignore[call-arg]
            ),
            callbacks=[Witness(board)],  # type: ignore[list-item]
            worker_runtime_env=allocator.RUNTIME_ENV,
        ),
    )
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _ROOM_SECONDS)
    try:
        with Listener(lambda: ray.get(board.take.remote()), report), _stopping(board, stop):
            trainer.fit()
    finally:
        if error := ray.get(board.error.remote()):
            raise error from None
    return is_complete(run)


@contextmanager
def _stopping(board: Any, stop: threading.Event) -> Iterator[None]:
    """Ask the board to stop when `stop` is set, for as long as the block runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            if stop.is_set():
                board.ask_to_stop.remote()
                return

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _places() -> list[Place]:
    """Where all workers run, by rank."""
    import torch.distributed as dist

    mine = Place(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), memory.kernel_kills())
    places = [mine] * dist.get_world_size()
    dist.all_gather_object(places, mine)
    return places


def _draining() -> set[str]:
    """The nodes that are about to go away; what Ray Train's own watcher reads, which tells workers by a barrier."""
    return set(ray._private.state.state.get_draining_nodes())


def _how_it_died(death: Exception) -> str:
    """What counts in the paragraph that Ray says of an actor's death."""
    words = " ".join(str(death).split())
    if kind := re.search(r"exit type: (\w+)", words):
        return f"its process died ({kind[1]})"
    return "its node died" if "node has died" in words else words[:200]


def _ray_storage(run: Run) -> str:
    """Where Ray Train keeps its own notes; nothing of ours depends on them."""
    return f"{run.folder}/ray"


class Listener:
    """A thread that takes reports for as long as the block runs.

    What fails with one is told at once and raised at the end: training goes on, and so do the reports after it.
    """

    def __init__(self, take: Callable[[], list[dict[str, Any]]], report: Report) -> None:
        self._pinned, self._report = take, report
        self._fault: Exception | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="reports", daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def _listen(self) -> None:
        while not self._done.wait(_POLL_SECONDS):
            self._take()

    def _take(self) -> None:
        for row in self._pinned():
            try:
                self._report(row)
            except Exception as error:
                log.warning("a report could not be passed on: %s: %s", type(error).__name__, error)
                self._fault = self._fault or error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._take()
        if self._fault and kind is None:
            raise self._fault
