"""What users look at of a run: the scrape, MLflow, checks of its checkpoints, the trace, the record of goodput."""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

import evaluation_sets
import pairs
import servers
from cliploom.training import checkpoint
from cliploom.training.exporter import COUNTERS, GAUGES
from clusters import Head

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
STEPS, BATCH = 400, 16


@pytest.fixture(scope="module")
def watched(head: Head, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run with everything on: its folder, what the job said, and what was scraped before it ended."""
    folder = tmp_path_factory.mktemp("watched")
    evaluation_sets.classification(folder / "colours", samples=12, shards=1)
    (folder / "suite.yaml").write_text("- {dataset: colours, tasks: [zeroshot_classification]}\n")
    tree = {
        "run": {"name": "watched", "storage": str(folder)},
        "data": {"manifest": pairs.write(folder / "pairs"), "cpus_per_task": 0.2},
        "model": {"name": "ViT-mu-8-32"},
        "train": {
            "global_batch_size": BATCH,
            "micro_batch_size": 8,
            "workers": 2,
            "cpus_per_worker": 0.5,
            "samples": STEPS * BATCH,
            "precision": "fp32",
            "log_steps": 5,
            "keep_checkpoints": 2,
            "checkpoint_steps": 50,
            "evaluate_steps": 100,
            "profile_steps": [3, 4],
        },
        "evaluate": {"suite": str(folder / "suite.yaml"), "root": str(folder), "cpus_per_worker": 0.5},
        "registry": {"model_name": "watched"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "jobs/train.py", "--config", str(folder / "config.yaml")]
    environment = {**os.environ, **head.environment, "RAY_ADDRESS": head.address}
    with (folder / "said").open("w") as said:
        job = subprocess.Popen(command, cwd=servers.ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)
        scraped = ""
        while job.poll() is None:
            if 'run="watched"' in (found := scrape(head)):
                scraped = found
            time.sleep(1)  # Ray gathers metrics every few seconds
    assert job.returncode == 0, (folder / "said").read_text()
    return folder, (folder / "said").read_text(), scraped


def scrape(head: Head) -> str:
    """What Prometheus would read of the head now; nothing where the endpoint does not answer yet."""
    try:
        with urllib.request.urlopen(head.metrics, timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.URLError:
        return ""


def metrics(folder: Path) -> dict[str, dict[int, float]]:
    query = "select m.key, m.step, m.value from metrics m join runs r using (run_uuid) where r.name = 'watched'"
    found: dict[str, dict[int, float]] = {}
    with sqlite3.connect(folder / "mlflow.db") as connection:
        for key, step, value in connection.execute(query):
            found.setdefault(key, {})[step] = value
    return found


def test_mlflow_has_every_metric_under_its_name(watched: tuple[Path, str, str]) -> None:
    found = metrics(watched[0])
    names = {"loss", "samples", "samples_per_second", "step_seconds", "mfu", "data_wait_seconds", "goodput"}
    names |= {"productive_seconds_total", "wall_seconds_total", "restarts_total", "zeroshot/colours/acc1"}
    assert names <= found.keys()
    assert any(re.fullmatch(r"system/[^/]+/cpu_utilization_percentage", name) for name in found)
    assert 0 < found["mfu"][STEPS] < 1.5
    assert 0 < found["goodput"][STEPS] < 1


def test_checkpoints_are_checked_beside_the_training_and_the_best_stays(watched: tuple[Path, str, str]) -> None:
    folder, said, _ = watched
    values = metrics(folder)["zeroshot/colours/acc1"]
    assert values
    assert set(values) <= set(range(50, STEPS + 1, 50))
    best = checkpoint.best(str(folder / "watched"))
    assert best is not None
    assert (best.metric, best.value) == ("zeroshot/colours/acc1", max(values.values()))
    assert best.step == min(step for step, value in values.items() if value == best.value)
    assert f"best {best.value:.4f} at step {best.step}" in said
    kept = [found.progress.step for found in checkpoint.committed(str(folder / "watched"))]
    assert {STEPS, STEPS - 50, best.step} <= set(kept)  # and one, perhaps, that was being checked at the last save
    assert len(kept) <= 4


def test_prometheus_reads_every_metric_of_the_run(watched: tuple[Path, str, str]) -> None:
    scraped = watched[2]
    for name in (*GAUGES, *COUNTERS):
        [*lines] = [line for line in scraped.splitlines() if line.startswith(f"ray_cliploom_{name}{{")]
        assert any('run="watched"' in line for line in lines), name


def test_the_trace_is_in_the_run_and_in_mlflow(watched: tuple[Path, str, str]) -> None:
    [trace] = (watched[0] / "watched" / "profile").iterdir()
    assert trace.name == "trace-steps-3-4.json.gz"
    assert list(watched[0].rglob(f"artifacts/profile/{trace.name}"))
    with gzip.open(trace) as file:
        assert json.load(file)["traceEvents"]


def test_the_job_ends_with_where_time_went(watched: tuple[Path, str, str]) -> None:
    folder, said, _ = watched
    assert re.search(r"^goodput \d+ % of ", said, re.MULTILINE)
    assert re.search(r"^step \d+/400.*  loss \d.*samples/s  MFU [\d.]+ %  data wait \d+ %  [\d,]+ samples$", said, re.M)
    record = json.loads((folder / "watched" / "goodput.json").read_text())
    assert record["step"] == STEPS
    assert 0 < record["productive_seconds"] < record["wall_seconds"]
