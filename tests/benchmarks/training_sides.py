"""The sides of the training benchmark, each in a process tree of its own.

    python training_sides.py REQUEST    # a line of JSON; the answer is one

Requests: {"what": "plain" | "bare" | "within" | "platform" | "save", "folder", "model", "batch", "precision",
"stage", "steps", "saves"}.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import photos
import processes
from cliploom import config as configs
from cliploom.cluster import connect
from cliploom.data.plan import WorkItem
from cliploom.data.reader import Batch, reader
from cliploom.objectives import Ranks
from cliploom.settings.cluster import Ray
from cliploom.training.run import Run, plan_run

WORKERS = 2
WARM_UP = 4  # steps that are not timed
BESIDE = 2  # steps that are timed while a save is written
CLUSTER = Ray(cpus=2, object_store_gb=0.4)
AHEAD = 70  # steps that reading is ahead of training, at most: passed over at first, and yet to come at the end
READ = 16  # micro-batches whose reading is timed
Request = dict[str, Any]


def planned(request: Request, steps: int, checkpoint: int = 1000) -> Run:
    """The run, on photo-like JPEGs resized at rest."""
    shards = Path(request["folder"], "shards")
    if not shards.exists():
        photos.write_shards(shards, 4, 64, 256)
    settings = {
        "run.name": f"bench-{request['what']}-{request['precision']}-{time.time_ns()}",
        "run.storage": request["folder"],
        "data.manifest": str(shards),
        "data.cpus_per_task": 0.5,
        "model.name": request["model"],
        "train.global_batch_size": request["batch"],
        "train.micro_batch_size": request["batch"] // WORKERS,
        "train.workers": WORKERS,
        "train.cpus_per_worker": 0.75,
        "train.samples": steps * request["batch"],
        "train.precision": request["precision"],
        "train.zero_stage": request["stage"],
        "train.checkpoint_steps": checkpoint,
        "train.checkpoint_minutes": 1000,
    }
    return plan_run(configs.load(None, [f"{key}={value}" for key, value in settings.items()]))


def bare(request: Request) -> dict[str, Any]:
    """Seconds a step without Ray, the loop, reports or checkpoints, its data in memory."""
    return _slowest(processes.run(WORKERS, _bare, request))


def within(request: Request) -> dict[str, Any]:
    """As `bare`, in the workers of Ray Train: what is left, reading apart, for any training through Ray."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from cliploom import allocator

    def work() -> None:
        import torch

        torch.set_num_threads(1)
        rank = ray.train.get_context().get_world_rank()
        Path(request["folder"], f"within-{rank}").write_text(json.dumps(_bare(request)))

    with connect(CLUSTER):
        TorchTrainer(
            work,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 0.75}),
            run_config=ray.train.RunConfig(
                storage_path=request["folder"],
                worker_runtime_env=allocator.RUNTIME_ENV,  # type: ignore[call-arg]
            ),
        ).fit()
    return _slowest([json.loads(Path(request["folder"], f"within-{rank}").read_text()) for rank in range(WORKERS)])


def _slowest(answers: list[dict[str, float]]) -> dict[str, float]:
    """Of the workers'."""
    return max(answers, key=lambda found: found["step_seconds"])


def _bare(request: Request) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from cliploom import objectives
    from cliploom.training.engine import Engine
    from cliploom.training.network import build
    from cliploom.training.step import MicroBatch, loss_and_gradients

    run = planned(request, WARM_UP + request["steps"])
    engine = Engine(build(run, None), run.config.train)
    ranks = Ranks([request["batch"] // WORKERS] * WORKERS, dist.get_rank())
    _in_memory(run, 1)  # what is loaded once is loaded
    began = time.process_time()
    read = [batch for _, batch in _in_memory(run, READ)]
    reading = (time.process_time() - began) / sum(len(batch.pixels) for batch in read)
    batches = [MicroBatch(torch.from_numpy(batch.pixels), torch.from_numpy(batch.tokens)) for batch in read]
    seconds = []
    for number in range(WARM_UP + request["steps"]):
        began = time.perf_counter()
        loss = objectives.objective("contrastive").loss
        float(loss_and_gradients(engine, [batches[number % READ]], ranks, 1, loss, lambda _: True).loss)
        engine.step(1e-4)
        seconds.append(time.perf_counter() - began)
    return {"step_seconds": statistics.mean(seconds[WARM_UP:]), "read_milliseconds": 1000 * reading}


def platform(request: Request) -> dict[str, Any]:
    """The job's way: Ray Data, Ray Train, DeepSpeed, timed when reading goes on as fast as training; with a worker
    killed after the checkpoint."""
    import psutil

    from cliploom.training.trainer import fit

    last = AHEAD + request["steps"]  # that is timed
    run = planned(request, last + AHEAD, checkpoint=last)
    stop = threading.Event()
    told: list[tuple[float, dict[str, Any]]] = []
    killed: list[float] = []

    def report(row: dict[str, Any]) -> None:
        told.append((time.perf_counter(), row))
        if "checkpoint" in row and not killed:
            [worker, *_] = [p for p in psutil.process_iter(["cmdline"]) if _is_worker(p)]
            worker.kill()
            killed.append(time.perf_counter())
        elif killed and row.get("step", 0) > last:
            stop.set()

    with connect(CLUSTER):
        began = time.perf_counter()
        fit(run, report, stop)
    rows = [(at, row) for at, row in told if "loss" in row]
    timed = [row for _, row in rows if AHEAD < row["step"] <= last]
    again = next(at for at, row in rows if at > killed[0] and row["step"] == last + 1)
    step = statistics.mean(request["batch"] / row["samples_per_second"] for row in timed)
    return {
        "step_seconds": step,
        "data_wait_seconds": statistics.mean(row["data_wait_seconds"] for row in timed),
        "fit_to_first_step_seconds": rows[0][0] - began - step,
        "restart_seconds": again - killed[0] - step,
        "whole_seconds": time.perf_counter() - began,
    }


def _is_worker(process: Any) -> bool:
    import psutil

    mine = psutil.Process().pid in [parent.pid for parent in process.parents()]
    return mine and "RayTrainWorker" in " ".join(process.info["cmdline"] or [])


def save(request: Request) -> dict[str, Any]:
    """How long a save holds the loop, beside the copying alone; and the step beside a save that is being written."""
    return dict(processes.run(WORKERS, _save, request)[0])


def _save(request: Request) -> dict[str, Any]:
    import torch.distributed as dist

    from cliploom.training import checkpoint
    from cliploom.training.loop import Loop
    from cliploom.training.watchdog import Watchdog

    begun: list[Any] = [None, None]
    if dist.get_rank() == 0:
        run = planned(request, 1000)
        begun = [run, checkpoint.begin(run.folder)[0]]
    dist.broadcast_object_list(begun)
    run, attempt = begun
    watchdog = Watchdog(f"{run.folder}/hang.txt", lambda line: None)
    loop = Loop(run, attempt, None, lambda row: None, threading.Event(), watchdog)
    batches = itertools.cycle(_in_memory(run, 4))
    for _ in range(WARM_UP):
        loop._take_step(batches)
    copied, held, alone, beside, written = [], [], [], [], []
    for _ in range(request["saves"]):
        copied.append(_timed(lambda: [part.values.clone() for part in loop.engine._state.own()]))
        alone += [_timed(lambda: loop._take_step(batches)) for _ in range(BESIDE)]
        dist.barrier()
        began = time.perf_counter()
        held.append(_timed(loop._save))
        beside += [_timed(lambda: loop._take_step(batches)) for _ in range(BESIDE)]
        loop.saver.finish()
        written.append(time.perf_counter() - began)
    return {
        "copy_seconds": statistics.median(copied),
        "held_seconds": statistics.median(held),
        "held_of_copy": statistics.median(held) / statistics.median(copied),
        "written_seconds": statistics.median(written),
        "steps_beside_seconds": BESIDE * statistics.mean(beside),
        "samples_a_second": request["batch"] / statistics.mean(alone),
        "samples_a_second_beside_a_save": request["batch"] / statistics.mean(beside),
        "state_mib": sum(value.nbytes for value in loop.engine.snapshot().values()) / 2**20,
    }


def _in_memory(run: Run, steps: int) -> list[tuple[WorkItem, Batch]]:
    """This worker's items of the first steps, with their batches."""
    import torch.distributed as dist

    read = reader(run.stream.source).read
    items = run.stream.split(0, WORKERS)[dist.get_rank()].items()
    return [(item, read(item)) for item in itertools.islice(items, steps)]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    sides = {"plain": bare, "bare": bare, "within": within, "platform": platform, "save": save}
    print(json.dumps(sides[asked["what"]](asked)))
