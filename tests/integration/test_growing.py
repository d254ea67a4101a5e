"""A cluster that grows on demand: jobs come to it by submission, move off a spot node, and leave it empty.

How many seconds each of these took is written down in build/growing.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import clusters
import metadata
import pairs
import runs
import servers
import watching
from benchmarks.machine import keep
from clusters import Head

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
BATCH = 16
NOTICE_SECONDS = 15
IDLE_SECONDS = 5
SUBMIT = "cluster/submit.py"
# Open to the network, as cluster/README.md lists them.
LISTED = {
    *("gcs_server", "raylet/raylet", "util.client.server", "dashboard/agent.py", "dashboard/dashboard.py"),
    *("runtime_env/agent", "autoscaler/v2/monitor", "ray::", "jobs/train.py"),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pairs.write(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    node = {"CPU": 2, "object_store_memory": 120 << 20}
    pools = {"ingest": node, "train": node, "evaluate": node}
    with clusters.start_growing(tmp_path_factory.mktemp("growing"), pools, most=2, idle_seconds=IDLE_SECONDS) as head:
        yield head


class Clock:
    """Seconds between what happens in a test, by the words for it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def start(self) -> None:
        """Count from now on."""
        self._began = time.monotonic()

    def note(self, what: str) -> None:
        """Write down how long it was since the last, or since `start`."""
        self.seconds[what] = round(time.monotonic() - self._began, 1)
        self.start()


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    found = {"idle_seconds_before_a_node_goes": IDLE_SECONDS, "seconds": clock.seconds}
    keep(servers.ROOT / "build" / "growing.json", found)


def write_config(folder: Path, shards: str, name: str, steps: int) -> Path:
    tree = {
        "run": {"name": name, "storage": str(folder)},
        "data": {"manifest": shards, "cpus_per_task": 0.5},
        "model": {"name": "ViT-mu-8-32"},
        "train": {
            "global_batch_size": BATCH,
            "micro_batch_size": BATCH,
            "precision": "fp32",
            "samples": steps * BATCH,
            "checkpoint_steps": 20,
            "log_steps": 20,
        },
        "registry": {"model_name": "test"},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def write_search(folder: Path, shards: str) -> Path:
    """Three trials, of which a node of the pool holds one."""
    path = write_config(folder, shards, "search", steps=40)
    tree = yaml.safe_load(path.read_text())
    tree["train"]["cpus_per_worker"] = 1.5
    tree["tune"] = {
        "method": "random",
        "trials": 3,
        "evaluations": 1,
        "held_out_shards": 1,
        "held_out_batch": 8,
        "held_out_batches": 1,
        "space": {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def submit(head: Head, config: Path, job: str = "train") -> subprocess.Popen[str]:
    command = [sys.executable, SUBMIT, "--address", head.dashboard, job, "--config", str(config)]
    environment = {**os.environ, **head.environment}
    return subprocess.Popen(command, cwd=servers.ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def finish(job: subprocess.Popen[str]) -> str:
    """The job's lines; it must have come to its end."""
    told, _ = job.communicate()
    assert job.returncode == 0, told
    return told


def committed(folder: Path, name: str) -> list[int]:
    return sorted(int(path.parent.name.split("-")[0]) for path in (folder / name).glob("checkpoints/*/COMMIT.json"))


@contextmanager
def watch_for_notices(head: Head, cloud: metadata.Metadata, node: str) -> Iterator[subprocess.Popen[bytes]]:
    """The agent of a node, once it polls."""
    command = [sys.executable, "cluster/agent.py", "--cloud", "aws", "--metadata", cloud.url, "--node-id", node]
    command += ["--address", head.address, "--poll-seconds", "0.1"]
    agent = subprocess.Popen(command, cwd=servers.ROOT, env={**os.environ, **head.environment})
    try:
        cloud.await_request(metadata.AWS_REBALANCE)
        yield agent
    finally:
        agent.kill()
        agent.wait()


def check_what_listens(head: Head) -> None:
    """Nothing beyond what the README lists, and nothing that lets a stranger start a job."""
    found = watching.listening(head)
    print(sorted(set(found.values())))
    open_to_all = {kind for kind, address in found.values() if address not in ("127.0.0.1", "::1")}
    assert open_to_all <= LISTED, open_to_all - LISTED
    started = [
        (port, path)
        for port in found
        for path in ("/api/jobs/", "/api/job_agent/jobs/")
        if watching.starts_a_job(port, path)
    ]
    assert started == []


def test_a_node_comes_for_a_job_and_goes_after_it(growing: Head, shards: str, tmp_path: Path, clock: Clock) -> None:
    assert watching.workers(growing) == {}
    clock.start()
    job = submit(growing, write_config(tmp_path, shards, "short", steps=20))
    watching.until(lambda: watching.workers(growing, "train"), "a node for training", job)
    clock.note("a short run: from its submission to a node for it")
    assert "registered test version" in finish(job)
    clock.note("a short run: from the node to the run's end")
    watching.until(lambda: not watching.workers(growing), "an empty cluster")
    clock.note("a short run: from its end to an empty cluster")


@pytest.mark.slow
def test_a_search_has_several_nodes_and_leaves_none(growing: Head, tmp_path: Path, clock: Clock) -> None:
    config = write_search(tmp_path, pairs.write(tmp_path / "pairs", shards=4))
    watching.until(lambda: not watching.workers(growing), "an empty cluster")
    clock.start()
    job = submit(growing, config, "tune")
    watching.until(lambda: len(watching.workers(growing, "train")) == 2, "two nodes for trials", job)
    clock.note("a search: from its submission to two nodes")
    finish(job)
    clock.note("a search: from two nodes to its end")
    found = json.loads((tmp_path / "search" / "results.json").read_text())
    assert [trial["status"] for trial in found["trials"]] == ["finished"] * 3
    watching.until(lambda: not watching.workers(growing), "an empty cluster")
    clock.note("a search: from its end to an empty cluster")


@pytest.mark.slow
def test_training_moves_off_a_spot_node_and_leaves_an_empty_cluster(
    growing: Head, shards: str, tmp_path: Path, clock: Clock
) -> None:
    watching.until(lambda: not watching.workers(growing), "an empty cluster")
    job = submit(growing, write_config(tmp_path, shards, "spot", steps=3000))
    [spot] = watching.until(lambda: watching.workers(growing, "train"), "a node for training", job)
    with metadata.serve() as cloud, watch_for_notices(growing, cloud, spot) as agent:
        watching.until(lambda: committed(tmp_path, "spot"), "a first checkpoint", job)
        [worker] = watching.listed(growing, "actors", class_name="RayTrainWorker", state="ALIVE")
        assert worker["node_id"] == spot
        tasks = [task for task in watching.listed(growing, "tasks") if task["name"] == "MapBatches(read)"]
        there = {task["node_id"] for task in tasks} & watching.workers(growing).keys()  # the others were other tests'
        assert there
        assert there <= watching.workers(growing, "ingest").keys()
        check_what_listens(growing)
        cloud.answers[metadata.AWS_ACTION] = metadata.aws_action(NOTICE_SECONDS)
        clock.start()
        assert agent.wait(60) == 0
    clock.note("a spot node: from the cloud's notice to the drain")
    deadline = time.monotonic() + NOTICE_SECONDS
    watching.until(
        lambda: len(runs.attempts(tmp_path / "spot")) > 1 or time.monotonic() > deadline, "the deadline", job
    )
    watching.take_away(growing, spot)
    saved = committed(tmp_path, "spot")[-1]
    watching.until(lambda: committed(tmp_path, "spot")[-1] > saved, "a checkpoint from another node", job)
    clock.note("a spot node: from the drain to the next checkpoint, on another node")
    told = finish(job)
    clock.start()
    assert told.startswith("job      spot at ")
    assert "registered test version 1" in told
    assert runs.attempts(tmp_path / "spot")[-1]["step"] >= 20
    elsewhere = {actor["node_id"] for actor in watching.listed(growing, "actors", class_name="RayTrainWorker")}
    assert spot in elsewhere
    assert len(elsewhere) > 1
    watching.until(lambda: not watching.workers(growing), "an empty cluster")
    clock.note("a spot node: from the run's end to an empty cluster")


@pytest.mark.slow
def test_a_run_outlives_its_head(shards: str, tmp_path: Path) -> None:
    """The head's machine is lost in mid-run; on another one the job is submitted again, and goes on."""
    config = write_config(tmp_path, shards, "outlives", steps=400)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with clusters.start(tmp_path / "first") as head:
        job = submit(head, config)
        watching.until(lambda: committed(tmp_path, "outlives"), "a first checkpoint", job)
        for process in watching.family(head.pid):
            process.kill()
        told, _ = job.communicate()
        assert job.returncode == 1, told
    saved = committed(tmp_path, "outlives")[-1]
    with clusters.start(tmp_path / "second") as head:
        told = finish(submit(head, config))
    assert told.startswith("job      outlives at ")
    assert runs.attempts(tmp_path / "outlives")[-1]["step"] >= saved > 0
