"""A search as users start it, killed in the middle and started again: trials are real training runs."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

import pairs
import servers
from cliploom import config, models
from cliploom.training.run import model_config
from clusters import Head

pytestmark = pytest.mark.integration
TRIALS, BATCH, STEPS = 3, 16, 8


def write_config(folder: Path, shards: str) -> Path:
    tree = {
        "run": {"name": "search", "storage": str(folder)},
        "data": {"manifest": shards, "cpus_per_task": 0.2},
        "model": {"name": "ViT-mu-8-32"},
        "train": {
            "global_batch_size": BATCH,
            "micro_batch_size": BATCH,
            "cpus_per_worker": 0.7,
            "samples": STEPS * BATCH,
            "precision": "fp32",
            "log_steps": 1,
        },
        "tune": {
            "method": "random",
            "trials": TRIALS,
            "evaluations": 2,
            "held_out_shards": 1,
            "held_out_batch": 8,
            "held_out_batches": 2,
            "concurrent": 1,
            "space": {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
            "carry": {"model": "ViT-Ti-8-64", "samples": 10_000},
        },
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def mlflow_runs(folder: Path) -> list[tuple[str, str, str | None]]:
    """(name, status, id of the parent run) of every run."""
    query = (
        "select r.name, r.status, t.value from runs r left join tags t "
        "on t.run_uuid = r.run_uuid and t.key = 'mlflow.parentRunId' order by r.name"
    )
    with sqlite3.connect(folder / "mlflow.db") as connection:
        return connection.execute(query).fetchall()


def test_a_search_killed_in_the_middle_goes_on_and_leaves_no_run_open(head: Head, tmp_path: Path) -> None:
    shards = pairs.write(tmp_path / "pairs", shards=4)
    command = [sys.executable, "jobs/tune.py", "--config", str(write_config(tmp_path, shards))]
    environment = {**os.environ, **head.environment, "RAY_ADDRESS": head.address}
    driver = subprocess.Popen(command, cwd=servers.ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert any(line.startswith("search-001  begins") for line in driver.stdout)  # reads on until it does
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    records = tmp_path / "search" / "records"
    first = {path: path.read_bytes() for path in (records / "000").iterdir()}
    assert {path.name for path in first} == {"trial.json", "points.json", "end.json"}
    asked = (records / "001" / "trial.json").read_bytes()
    assert ("search", "RUNNING", None) in mlflow_runs(tmp_path)

    again = subprocess.run(command, cwd=servers.ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.read_bytes() for path in (records / "000").iterdir()} == first
    assert (records / "001" / "trial.json").read_bytes() == asked
    assert "search-000  begins" not in again.stdout
    runs = mlflow_runs(tmp_path)
    assert Counter(status for _, status, _ in runs) == {"FINISHED": TRIALS + 1}
    parents = {parent for name, _, parent in runs if name != "search"}
    assert len(parents) == 1
    assert None not in parents

    found = json.loads((tmp_path / "search" / "results.json").read_text())
    assert [trial["status"] for trial in found["trials"]] == ["finished"] * TRIALS
    for trial in found["trials"]:
        assert [point["samples"] for point in trial["points"]] == [STEPS // 2 * BATCH, STEPS * BATCH]
    losses = {trial["name"]: trial["points"][-1]["held_out_loss"] for trial in found["trials"]}
    assert found["best"]["name"] == min(losses, key=lambda name: losses[name])
    carried = config.load(str(tmp_path / "search" / "carried.yaml"))
    assert model_config(carried, None) == models.preset("ViT-Ti-8-64")
    once_more = subprocess.run(command, cwd=servers.ROOT, env=environment, capture_output=True, text=True)
    assert once_more.returncode == 0
    assert json.loads((tmp_path / "search" / "results.json").read_text()) == found
