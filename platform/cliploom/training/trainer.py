"""Ray Train: workers that run the loop, fed by the stream, started again after faults."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from cliploom import pools
from cliploom.errors import InputError
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Attempt, Checkpoint
from cliploom.training.run import Run, is_complete, workers_range

_POLL_SECONDS = 0.5
# Large tensors on huge pages: on CPUs, a tenth of a step is spent on the faults of small ones.
_WORKER_ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": "1"}
Report = Callable[[dict[str, Any]], None]


class Board:
    """An actor between driver and workers: rank 0 pins its reports to it, the driver may ask for a stop."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._stop = False
        self._reason: str | None = None

    def give_up(self, reason: str) -> None:
        """Say what the user has to mend before it makes sense to try again."""
        self._reason = reason

    def reason(self) -> str | None:
        """What a worker has given up for."""
        return self._reason

    def ask_to_stop(self) -> None:
        """Have the workers stop after their step, with a checkpoint."""
        self._stop = True

    def is_stopping(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._stop

    def pin(self, row: dict[str, Any]) -> None:
        """Add a report."""
        self._rows.append(row)

    def take(self) -> list[dict[str, Any]]:
        """All reports since the last time."""
        rows, self._rows = self._rows, []
        return rows


@dataclass(frozen=True)
class Worker:
    """What Ray Train runs in each worker."""

    run: Run
    board: Any

    def __call__(self) -> None:
        import torch

        from cliploom.data.stream import batches
        from cliploom.training.loop import Loop
        from cliploom.training.usage import Usage

        if ray.get(self.board.reason.remote()):
            return  # another try would end the same way
        torch.set_num_threads(max(1, int(self.run.config.train.cpus_per_worker)))
        attempt, found = _begin(self.run)
        context = ray.train.get_context()
        split = self.run.stream.split(attempt.step, context.get_world_size())[context.get_world_rank()]
        stop = threading.Event()
        if context.get_world_rank() == 0:
            threading.Thread(target=self._watch, args=(stop,), name="stop", daemon=True).start()
        try:
            with Usage(self._report) if context.get_local_rank() == 0 else nullcontext():
                ready = batches(split, self.run.config.data.prefetch)  # reading begins while the engine is made
                loop = Loop(self.run, attempt, found, self._report, stop)
                if loop.train(ready):
                    loop.export()
        except InputError as error:
            ray.get(self.board.give_up.remote(str(error)))
            raise  # the other workers may be waiting for this one

    def _report(self, row: dict[str, Any]) -> None:
        self.board.pin.remote(row)

    def _watch(self, stop: threading.Event) -> None:
        while not ray.get(self.board.is_stopping.remote()):
            time.sleep(_POLL_SECONDS)
        stop.set()


def preflight(run: Run) -> None:
    """Check that the cluster has what the run asks for, since Ray would wait for it without end.

    Raises:
        InputError: it has not; names the setting.
    """
    train, data = run.config.train, run.config.data
    there, workers = pools.capacity(train.pool), workers_range(run.config)[0]
    decoding = data.cpus_per_task if pools.selector(data.pool) == pools.selector(train.pool) else 0
    wanted = {
        "CPU": (workers * train.cpus_per_worker + decoding, "train.cpus_per_worker"),
        "GPU": (workers * train.gpus_per_worker, "train.gpus_per_worker"),
        "memory": (workers * train.memory_gb_per_worker * 2**30, "train.memory_gb_per_worker"),
    }
    for resource, (amount, key) in wanted.items():
        if amount > there.get(resource, 0):
            unit = 2**30 if resource == "memory" else 1
            raise InputError(
                f"{workers} workers and data.cpus_per_task need {amount / unit:g} {resource}, the cluster has "
                f"{there.get(resource, 0) / unit:g}: lower {key} or train.workers, or add nodes"
            )


def fit(run: Run, report: Report, stop: threading.Event | None = None) -> bool:
    """Train `run` to its end on the connected cluster, or until this process gets SIGTERM.

    On SIGTERM the workers end their step and save a checkpoint, from which the run goes on when it is fitted again.

    Args:
        run: what to train.
        report: gets the rows that workers report, in this process: metrics by name with `step` and `samples`, or
            `checkpoint` with a committed step, `artifact` with a file's URI, `system` with metrics of a `node`.
        stop: stops the run when it is set, in the place of SIGTERM, which reaches a process's main thread alone.

    Returns:
        Whether it came to the end.

    Raises:
        InputError: the run can't go on until the user has mended something.
        ray.train.TrainingFailedError: workers failed more often than `train.max_failures`.
    """
    preflight(run)
    train = run.config.train
    board: Any = ray.remote(Board).options(num_cpus=0).remote()
    low, high = workers_range(run.config)
    resources = {"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker}
    if train.memory_gb_per_worker:
        resources["memory"] = train.memory_gb_per_worker * 2**30
    trainer = TorchTrainer(
        Worker(run, board),
        torch_config=TorchConfig(backend="nccl" if train.gpus_per_worker else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            label_selector=pools.selector(train.pool) or None,  # type: ignore[call-arg]
            num_workers=low if low == high else (low, high),  # type: ignore[arg-type]
            use_gpu=train.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=f"{run.config.run.name}-{len(checkpoint.read_attempts(run.folder)):04d}",
            storage_path=_ray_storage(run),
            failure_config=ray.train.FailureConfig(max_failures=train.max_failures),
            worker_runtime_env={"env_vars": _WORKER_ENVIRONMENT},  # type: ignore[call-arg]
        ),
    )
    try:
        with _Listener(board, report), _stopping(board) if stop is None else _stopping_by(board, stop):
            trainer.fit()
    finally:
        if reason := ray.get(board.reason.remote()):
            raise InputError(reason) from None
    return is_complete(run)


@contextmanager
def _stopping(board: Any) -> Iterator[None]:
    """Ask the board to stop when this process gets SIGTERM, for as long as the block runs."""
    before = signal.signal(signal.SIGTERM, lambda *_: board.ask_to_stop.remote())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _stopping_by(board: Any, stop: threading.Event) -> Iterator[None]:
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


def _begin(run: Run) -> tuple[Attempt, Checkpoint | None]:
    """Begin an attempt on rank 0, and tell the other workers which."""
    import torch.distributed as dist

    begun: list[Any] = [checkpoint.begin(run.folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(begun)
    attempt, found = begun[0]
    return attempt, found


def _ray_storage(run: Run) -> str:
    """Where Ray Train keeps its own notes; nothing of ours depends on them."""
    return f"{run.folder}/ray"


class _Listener:
    """A thread that takes reports from the board for as long as the block runs."""

    def __init__(self, board: Any, report: Report) -> None:
        self._board, self._report = board, report
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="reports", daemon=True)

    def __enter__(self) -> _Listener:
        self._thread.start()
        return self

    def _listen(self) -> None:
        while not self._done.wait(_POLL_SECONDS):
            self._take()

    def _take(self) -> None:
        for row in ray.get(self._board.take.remote()):
            self._report(row)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._take()
