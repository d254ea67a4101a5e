"""Training as users start it: submitted to a cluster, killed and started again, and with data that can't be read."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch

import cliploom
import runs
import servers
from cliploom.data import manifest
from cliploom.data.shards import index_shard
from clusters import Head
from runs import BATCH, STEPS, metric, submit, weights, write_config

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_a_submitted_job_trains_and_registers(uninterrupted: Path) -> None:
    found = metric(uninterrupted, "whole", "loss")
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
    command = [*runs.command(config), *options]
    environment = runs.environment(head)
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


def test_a_cap_on_time_saves_and_stops(head: Head, shards: str, tmp_path: Path) -> None:
    settings = {"samples": 100_000 * BATCH, "checkpoint_steps": 100_000, "max_hours": 20 / 3600}
    config = write_config(tmp_path, shards, "capped", **settings)
    answer = servers.run_job("train", "--config", str(config), env=runs.environment(head))
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "stopped by train.max_hours: run capped goes on from its checkpoint" in answer.stderr
    again = servers.run_job("train", "--config", str(config), "train.max_hours=0.001", env=runs.environment(head))
    assert again.returncode == 2, again.stdout + again.stderr
    assert "error: capped has had its train.max_hours=0.001: raise it to go on" in again.stderr


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
    assert list(metric(tmp_path, "run-bad", "bad/undecodable_image").values()) == [{len(listed)}]


def tear(source: Path, target: Path) -> None:
    """Copy a tar with every third picture cut in half."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for number, member in enumerate(old):
            data = old.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.endswith(".png") and (number // 3) % 3 == 0:
                data = data[: len(data) // 2]
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
