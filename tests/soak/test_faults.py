"""A run of 2,000 steps in which ten faults of different kinds strike: its weights, and what the faults have cost.

Written down in build/soak.json: seconds lost with each fault, and goodput (time of steps that counted / time in all)
as measured, and as the usual formula has it from the times of a restart, a checkpoint interval and between faults.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
from collections.abc import Callable
from pathlib import Path
from signal import SIGSTOP
from typing import Any

import pytest
import torch

import clusters
import pairs
import runs
import servers
from benchmarks.machine import keep
from clusters import Head, Node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * 3600)]
STEPS, INTERVAL = 2000, 50
SETTINGS: dict[str, Any] = {
    "samples": STEPS * runs.BATCH,
    "micro_batch_size": 8,
    "cpus_per_worker": 1.2,  # a worker a node
    "checkpoint_steps": INTERVAL,
    "keep_checkpoints": 3,
    "max_failures": 20,
    "timeout_minutes": 0.5,
}


class Struck:
    """A run under way, its cluster, and what one can do to them."""

    def __init__(self, head: Head, folder: Path, config: Path, nodes: list[Node]) -> None:
        self.head, self.folder, self.config, self.nodes = head, folder, config, nodes
        self.run = folder / config.stem
        self.driver = runs.start(head, config)

    def restart(self) -> None:
        """Start the job again once it has ended."""
        self.driver.wait()
        self.driver = runs.start(self.head, self.config)

    def kill_driver(self) -> None:
        self.driver.kill()
        self.restart()

    def stop(self) -> None:
        self.driver.terminate()
        self.restart()

    def damage(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Kill the driver, and change a file of the newest checkpoint."""
        self.driver.kill()
        self.driver.wait()
        file = sorted(self.run.glob("checkpoints/*/COMMIT.json"))[-1].with_name(name)
        file.write_bytes(change(file.read_bytes()))
        self.restart()

    def kill_worker(self, number: int = 0) -> None:
        runs.train_workers()[number].kill()

    def kill_all(self) -> None:
        for worker in runs.train_workers():
            worker.kill()

    def hang(self) -> None:
        runs.train_workers()[1].send_signal(SIGSTOP)

    def take_node(self) -> Node:
        """A node that has a worker; nobody may have it a second time."""
        workers = {worker.pid for worker in runs.train_workers()}
        node = next(node for node in self.nodes if workers & node.pids())
        self.nodes.remove(node)
        return node

    def kill_controller(self) -> None:
        """The process of Ray Train's own that starts workers again; with it the job fails."""
        for process in runs.processes_of("TrainController"):
            process.kill()
        self.restart()


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def reported(folder: Path, name: str) -> list[tuple[float, int]]:
    """(seconds, step) of all reports, in the order of time."""
    query = (
        "select m.timestamp, m.step from metrics m join runs r using (run_uuid) "
        "where r.name = ? and m.key = 'loss' order by m.timestamp"
    )
    with sqlite3.connect(folder / "mlflow.db") as connection:
        return [(stamp / 1000, step) for stamp, step in connection.execute(query, (name,))]


def costs(rows: list[tuple[float, int]], count: int) -> list[tuple[float, float]]:
    """Of each fault, seconds until the run was again as far as it had been, and until it took a step again.

    The `count` longest silences are those of the faults: reports come every second or two otherwise.
    """
    longest = sorted(range(1, len(rows)), key=lambda n: rows[n][0] - rows[n - 1][0])[-count:]
    found = []
    for n in sorted(longest):
        began = rows[n - 1][0]
        reached = max(step for _, step in rows[:n])
        again = next((stamp for stamp, step in rows[n:] if step > reached), rows[-1][0])
        found.append((again - began, rows[n][0] - began))
    return found


def test_ten_faults_change_nothing(tmp_path: Path) -> None:
    shards = pairs.write(tmp_path, several=True)
    (tmp_path / "ray").mkdir()
    with (
        clusters.start(tmp_path / "ray") as head,
        clusters.join(head, tmp_path) as one,
        clusters.join(head, tmp_path) as two,
        clusters.join(head, tmp_path) as three,
    ):
        whole = runs.write_config(tmp_path, shards, "whole", **SETTINGS)
        runs.finish(runs.start(head, whole))
        config = runs.write_config(tmp_path, shards, "struck", **SETTINGS)
        struck = Struck(head, tmp_path, config, [one, two, three])
        faults: dict[str, Callable[[], None]] = {
            "a worker killed": struck.kill_worker,
            "the driver killed, the job started again": struck.kill_driver,
            "SIGTERM, the job started again": struck.stop,
            "all workers killed": struck.kill_all,
            "the driver killed, a bit of the newest checkpoint flipped": lambda: struck.damage(
                "state-1.safetensors", flipped
            ),
            "a worker that hangs": struck.hang,
            "the driver killed, the newest checkpoint's marker cut short": lambda: struck.damage(
                "COMMIT.json", lambda data: data[:-9]
            ),
            "Ray Train's controller killed, the job started again": struck.kill_controller,
            "a node drained": lambda: struck.take_node().drain(head, 20),
            "a node lost": lambda: struck.take_node().kill(),
        }
        for number, (name, strike) in enumerate(faults.items()):
            runs.wait_for_checkpoint(struck.driver, struck.run, (number + 1) * STEPS // (len(faults) + 1))
            strike()
            print(f"{number + 1}: {name}", flush=True)
        runs.finish(struck.driver)
    expected = runs.weights(tmp_path, "whole")
    for key, weight in runs.weights(tmp_path, "struck").items():
        assert torch.equal(weight, expected[key]), key
    same, found = (runs.metric(tmp_path, name, "batch_digest") for name in ("whole", "struck"))
    assert found == same
    attempts = runs.attempts(tmp_path / "struck")
    assert len(attempts) == 1 + len(faults)
    write_down(tmp_path, list(faults))


def write_down(folder: Path, faults: list[str]) -> None:
    calm, rows = reported(folder, "whole"), reported(folder, "struck")
    step = (calm[-1][0] - calm[0][0]) / (calm[-1][1] - calm[0][1])
    wall = rows[-1][0] - rows[0][0]
    lost = costs(rows, len(faults))
    restart = statistics.mean(until_step for _, until_step in lost)
    mean_time = wall / len(faults)
    found = {
        "steps": STEPS,
        "steps_between_checkpoints": INTERVAL,
        "seconds_a_step": round(step, 4),
        "seconds_in_all": round(wall, 1),
        "attempts": len(runs.attempts(folder / "struck")),
        "faults": [
            {"fault": name, "seconds_lost": round(again, 1), "seconds_until_a_step": round(first, 1)}
            for name, (again, first) in zip(faults, lost, strict=True)
        ],
        "goodput_measured": round(STEPS * step / wall, 4),
        "goodput_of_the_formula": round(1 - (restart + INTERVAL / 2 * step) / mean_time, 4),
        "weights_are_those_of_the_run_without_faults": "bit for bit",
    }
    place = Path(os.environ.get("CLIPLOOM_SOAK_RESULT", servers.ROOT / "build" / "soak.json"))
    keep(place, found)
