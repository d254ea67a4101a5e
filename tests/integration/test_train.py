"""Training as users start it: submitted to a cluster, killed and started again, and with data that can't be read."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch
import yaml

import cliploom
import pairs
import servers
from cliploom.data import manifest
from cliploom.data.shards import index_shard
from clusters import Head

pytestmark = pytest.mark.integration
STEPS, BATCH = 30, 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pairs.write(tmp_path_factory.mktemp("pairs"), several=True)


def write_config(folder: Path, shards: str, name: str, **train: object) -> Path:
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


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / name / "export" / "weights.safetensors")


def losses(folder: Path, name: str) -> dict[int, set[float]]:
    """All losses that MLflow has of a run, by step; more than one where a step was taken again and differed."""
    query = "select m.step, m.value from metrics m join runs r using (run_uuid) where r.name = ? and m.key = 'loss'"
    found: dict[int, set[float]] = {}
    with sqlite3.connect(folder / "mlflow.db") as connection:
        for step, value in connection.execute(query, (name,)):
            found.setdefault(step, set()).add(value)
    return found


def submit(head: Head, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    runtime = {"env_vars": {"PYTHONPATH": str(servers.ROOT / "platform"), "PYTHONUNBUFFERED": "1"}}
    return subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", head.dashboard),
            *("--runtime-env-json", json.dumps(runtime), "--", *command),
        ],
        env={**os.environ, **head.environment, **environment},
        capture_output=True,
        text=True,
        cwd=servers.ROOT,
    )


@pytest.fixture(scope="module")
def uninterrupted(head: Head, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run submitted to the cluster, and never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    job = str(servers.ROOT / "jobs" / "train.py")
    answer = submit(head, "python", job, "--config", str(write_config(folder, shards, "whole")))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "registered test version 1, alias candidate" in answer.stdout
    lines = answer.stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("run "))
    assert [line.split()[0] for line in lines[first : first + 3]] == ["run", "storage", "mlflow"]
    return folder


def test_a_submitted_job_trains_and_registers(uninterrupted: Path) -> None:
    found = losses(uninterrupted, "whole")
    assert sorted(found) == list(range(1, STEPS + 1))
    assert min(found[STEPS]) < min(found[1])


def test_a_locked_image_tower_from_weights_gets_a_new_text_tower_and_loss(
    head: Head, shards: str, tmp_path: Path, uninterrupted: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(uninterrupted / "whole" / "export", start)
    settings = {"samples": 6 * BATCH, "lock": "image", "layer_decay": 0.9, "checkpoint_steps": 3}
    config = write_config(tmp_path, shards, "tuned", **settings)
    options = [f"model.weights={start}", "objective.name=sigmoid", "model.patch_dropout=0.25"]
    command = [sys.executable, "jobs/train.py", "--config", str(config), *options]
    environment = {**os.environ, **head.environment, "RAY_ADDRESS": head.address}
    answer = subprocess.run(command, cwd=servers.ROOT, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    before, after = weights(uninterrupted, "whole"), weights(tmp_path, "tuned")
    assert after.keys() == before.keys() | {"logit_bias"}
    for name, value in before.items():
        assert torch.equal(after[name], value) == name.startswith("visual."), name
    shutil.rmtree(start)  # the run has its own copy
    again = subprocess.run(command, cwd=servers.ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    model, _, _ = cliploom.load(str(tmp_path / "tuned" / "export"))
    assert model.config.logit_bias


def test_a_job_without_the_token_is_refused(head: Head, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("another-token-that-is-just-as-long-as-it")
    answer = submit(head, "python", "-c", "print(1)", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert answer.returncode != 0


def test_killed_at_any_moment_it_goes_on_to_the_same_weights(
    head: Head, shards: str, tmp_path: Path, uninterrupted: Path
) -> None:
    """First a worker is killed, which Ray Train starts again; then the driver, which the user does."""
    config = write_config(tmp_path, shards, "killed")
    command = [sys.executable, "jobs/train.py", "--config", str(config)]
    environment = {**os.environ, **head.environment, "RAY_ADDRESS": head.address}
    driver = subprocess.Popen(command, cwd=servers.ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "killed" / "checkpoints"
    try:
        wait_for_checkpoint(driver, checkpoints, 5)
        train_workers()[0].kill()
        wait_for_checkpoint(driver, checkpoints, 15)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    answer = subprocess.run(command, cwd=servers.ROOT, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    attempts = [json.loads(path.read_text()) for path in sorted((tmp_path / "killed" / "attempts").iterdir())]
    assert len(attempts) >= 3
    assert [a["step"] for a in attempts] == sorted(a["step"] for a in attempts)
    assert attempts[1]["step"] >= 5
    assert attempts[-1]["step"] >= 15
    assert set(losses(tmp_path, "killed")) <= set(range(1, STEPS + 1))
    whole = losses(uninterrupted, "whole")
    for step, found in losses(tmp_path, "killed").items():
        assert found == whole[step], f"step {step}"
    expected = weights(uninterrupted, "whole")
    for name, weight in weights(tmp_path, "killed").items():
        assert torch.equal(weight, expected[name]), name


def test_sigterm_saves_at_once_and_the_run_goes_on_from_there(
    head: Head, shards: str, tmp_path: Path, uninterrupted: Path
) -> None:
    config = write_config(tmp_path, shards, "stopped", checkpoint_steps=1000)
    command = [sys.executable, "jobs/train.py", "--config", str(config)]
    environment = {**os.environ, **head.environment, "RAY_ADDRESS": head.address}
    pipe = subprocess.PIPE
    driver = subprocess.Popen(command, cwd=servers.ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)
    assert driver.stdout is not None
    assert any(line.startswith("step ") for line in driver.stdout)  # reads on until there is one
    driver.terminate()
    _, said = driver.communicate()
    assert driver.returncode == 1
    assert "stopped by SIGTERM: run stopped goes on from its checkpoint" in said
    [marker] = (tmp_path / "stopped" / "checkpoints").glob("*/COMMIT.json")
    stopped_at = int(marker.parent.name.split("-")[0])
    assert 0 < stopped_at < STEPS
    answer = subprocess.run(command, cwd=servers.ROOT, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    expected = weights(uninterrupted, "whole")
    for name, weight in weights(tmp_path, "stopped").items():
        assert torch.equal(weight, expected[name]), name


def test_a_cap_on_time_saves_and_stops(head: Head, shards: str, tmp_path: Path) -> None:
    settings = {"samples": 100_000 * BATCH, "checkpoint_steps": 100_000, "max_hours": 20 / 3600}
    config = write_config(tmp_path, shards, "capped", **settings)
    environment = {**head.environment, "RAY_ADDRESS": head.address}
    answer = servers.run_job("train", "--config", str(config), env=environment)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "stopped by train.max_hours: run capped goes on from its checkpoint" in answer.stderr


def wait_for_checkpoint(driver: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Until a checkpoint at `step` or later is committed; the driver's own lines are the clock."""
    while True:
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        if any(int(marker.parent.name.split("-")[0]) >= step for marker in folder.glob("*/COMMIT.json")):
            return
        os.sched_yield()


def train_workers() -> list[psutil.Process]:
    """The processes of Ray Train workers that this test session's head started."""
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if p.name().startswith("ray::RayTrainWo") or "RayTrainWorker" in " ".join(p.cmdline())]


def test_too_much_bad_data_stops_the_run_with_a_list(head: Head, shards: str, tmp_path: Path) -> None:
    """Of two shards one has a third of its pictures torn: below the limit they are replaced, above it the run stops."""
    folder = tmp_path / "bad"
    folder.mkdir()
    good, bad = (Path(shards).parent / f"{number:05d}.tar" for number in (0, 1))
    (folder / good.name).write_bytes(good.read_bytes())
    tear(bad, folder / bad.name)
    rows = [index_shard(str(folder / name.name))[:2] for name in (good, bad)]
    uri = manifest.write(str(folder / "manifest.parquet"), rows).uri
    config = write_config(tmp_path, uri, "run-bad", samples=60 * BATCH, checkpoint_steps=1000)
    environment = {**head.environment, "RAY_ADDRESS": head.address}
    answer = servers.run_job("train", "--config", str(config), env=environment)
    assert answer.returncode == 2, answer.stdout + answer.stderr
    [line] = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert "data.max_bad_fraction=0.01" in line
    assert str(folder / bad.name) in line
    listed = [json.loads(row) for row in (tmp_path / "run-bad" / "bad.jsonl").read_text().splitlines()]
    assert {row["shard"] for row in listed} == {str(folder / bad.name)}
    assert {row["cause"] for row in listed} == {"undecodable image"}


def tear(source: Path, target: Path) -> None:
    """Copy a tar with every third picture cut in half."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for number, member in enumerate(old):
            data = old.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.endswith(".png") and (number // 3) % 3 == 0:
                data = data[: len(data) // 2]
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
