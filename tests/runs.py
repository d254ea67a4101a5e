"""Training runs for tests: small ones as a user configures them, and what they leave behind."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import safetensors.torch
import torch
import torch.distributed as dist
import yaml

import processes
import servers
from cliploom import config as configs
from cliploom.data.plan import WorkItem
from cliploom.data.reader import Batch, reader
from cliploom.training import checkpoint
from cliploom.training.loop import Loop
from cliploom.training.run import Run, plan_run
from cliploom.training.watchdog import Watchdog
from clusters import Head

STEPS, BATCH = 60, 16


def write_config(folder: Path, shards: str, name: str, **train: object) -> Path:
    """The configuration of a run of 60 steps, two workers and a checkpoint every five steps."""
    tree = {
        "run": {"name": name, "storage": str(folder)},
        "data": {"manifest": shards, "window_shards": 2, "cpus_per_task": 0.2},
        "model": {"name": "ViT-mu-8-32"},
        "train": {
            "global_batch_size": BATCH,
            "micro_batch_size": 4,
            "workers": 2,
            "cpus_per_worker": 0.7,
            "samples": STEPS * BATCH,
            "precision": "fp32",
            "zero_stage": 2,
            "checkpoint_steps": 5,
            "log_steps": 1,
            **train,
        },
        "registry": {"model_name": "test"},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def command(config: Path) -> list[str]:
    return [sys.executable, "jobs/train.py", "--config", str(config)]


def environment(head: Head, **more: str) -> dict[str, str]:
    """Of a driver that connects to the cluster from outside."""
    return {**os.environ, **head.environment, "RAY_ADDRESS": head.address, **more}


def start(head: Head, config: Path, **more: str) -> subprocess.Popen[str]:
    """The job, started; its output is both streams'."""
    pipe = subprocess.PIPE
    env = environment(head, PYTHONUNBUFFERED="1", **more)
    return subprocess.Popen(
        command(config), cwd=servers.ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def finish(driver: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the job's end; returns what it has said."""
    said, _ = driver.communicate()
    assert driver.returncode == code, said
    return said


def submit(head: Head, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Submit a job to the cluster, and wait for its end."""
    runtime = {"env_vars": {"PYTHONPATH": str(servers.ROOT / "platform"), "PYTHONUNBUFFERED": "1"}}
    return subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", head.dashboard),
            *("--runtime-env-json", json.dumps(runtime), "--", *words),
        ],
        env={**os.environ, **head.environment, **more},
        capture_output=True,
        text=True,
        cwd=servers.ROOT,
    )


def wait_for_checkpoint(driver: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Until a checkpoint of the run in `folder`, at `step` or later, is committed."""
    _wait(driver, lambda: newest_step(folder) >= step)


def wait_for_attempt(driver: subprocess.Popen[str], folder: Path, number: int) -> None:
    """Until the attempt of that number begins."""
    _wait(driver, lambda: (folder / "attempts" / f"{number:04d}.json").exists())


def _wait(driver: subprocess.Popen[str], come: Callable[[], bool]) -> None:
    """The run itself is the clock: it goes on, or its driver ends."""
    while not come():
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        time.sleep(0.01)


def newest_step(folder: Path) -> int:
    """Of the checkpoints of the run in `folder`; 0 where there are none."""
    return max((int(p.parent.name.split("-")[0]) for p in folder.glob("checkpoints/*/COMMIT.json")), default=0)


def processes_of(actor: str) -> list[psutil.Process]:
    """The processes that run actors of a class of Ray Train's, in clusters that this test session started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended meanwhile
            if f"ray::{actor}" in " ".join(process.cmdline()):
                found.append(process)
    return found


def train_workers() -> list[psutil.Process]:
    """The processes of Ray Train's workers."""
    return processes_of("RayTrainWorker")


def attempts(folder: Path) -> list[dict[str, Any]]:
    """What is recorded of each attempt of the run in `folder`; records that are being written are not there yet."""
    return [json.loads(path.read_text()) for path in sorted((folder / "attempts").glob("*.json"))]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """What a run has exported."""
    return safetensors.torch.load_file(folder / name / "export" / "weights.safetensors")


def metric(folder: Path, name: str, key: str) -> dict[int, set[float]]:
    """All values that MLflow has of a run's metric, by step; several where one was taken again and differed."""
    query = "select m.step, m.value from metrics m join runs r using (run_uuid) where r.name = ? and m.key = ?"
    found: dict[int, set[float]] = {}
    with sqlite3.connect(folder / "mlflow.db") as connection:
        for step, value in connection.execute(query, (name, key)):
            found.setdefault(step, set()).add(value)
    return found


def plain(config: Path, workers: int) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The run of a configuration in plain processes without Ray: rank 0's reports by step, and the weights.

    Its folder must not have a run of that name yet.
    """
    rows, _ = processes.run(workers, _take_all_steps, str(config))[0]
    run = plan_run(configs.load(str(config), []))
    return rows, safetensors.torch.load_file(Path(run.export, "weights.safetensors"))


def _take_all_steps(config: str) -> tuple[list[dict[str, Any]], None]:
    rows: list[dict[str, Any]] = []
    loop, batches = loop_of(plan_run(configs.load(config, [])), rows)
    assert loop.train(batches)
    loop.export()
    return [row for row in rows if "loss" in row], None


def loop_of(run: Run, rows: list[dict[str, Any]]) -> tuple[Loop, Iterator[tuple[WorkItem, Batch]]]:
    """This process's part of the run's next attempt, with its batches; reports go to `rows`."""
    begun: list[Any] = [checkpoint.begin(run.folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(begun)
    attempt, found = begun[0]
    watchdog = Watchdog(f"{run.folder}/hangs/{dist.get_rank()}.txt", lambda line: None)
    loop = Loop(run, attempt, found, rows.append, threading.Event(), watchdog)
    split = run.stream.split(attempt.step, dist.get_world_size())[dist.get_rank()]
    source = reader(run.stream.source)
    return loop, ((item, source.read(item)) for item in split.items())
