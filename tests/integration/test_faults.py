"""Faults that strike a run from outside: whatever happens, the same batches, losses and weights come out."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import clusters
import runs
from clusters import Head
from runs import BATCH, metric, weights

Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def flip_a_byte(folder: Path) -> None:
    """In the newest checkpoint of the run in `folder`."""
    newest = sorted(folder.glob("checkpoints/*/COMMIT.json"))[-1].parent
    part = sorted(newest.glob("state-*"))[-1]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


def test_one_fault_after_another_changes_nothing(
    start: Start, shards: str, tmp_path: Path, uninterrupted: Path
) -> None:
    """A worker is killed, then the driver; submitted again, the run gets SIGTERM; then a checkpoint is damaged."""
    run = tmp_path / "struck"
    config = runs.write_config(tmp_path, shards, "struck", keep_checkpoints=100)
    driver = start(config)
    runs.wait_for_checkpoint(driver, run, 5)
    runs.train_workers()[0].kill()
    runs.wait_for_checkpoint(driver, run, 10)
    driver.kill()
    driver.wait()
    assert re.fullmatch(r"worker [01]: its process died \(SYSTEM_ERROR\)", runs.attempts(run)[1]["reason"])
    driver = start(config)
    assert driver.stdout is not None
    assert any(line.startswith("step ") for line in driver.stdout)  # reads on until there is one
    driver.terminate()
    assert "stopped by SIGTERM: run struck goes on from its checkpoint" in runs.finish(driver, 1)
    before = runs.newest_step(run)
    flip_a_byte(run)
    runs.finish(start(config))
    begun = runs.attempts(run)
    assert len(begun) == 4
    assert 5 <= begun[1]["step"] <= begun[2]["step"] <= begun[3]["step"] < before
    whole = metric(uninterrupted, "whole", "loss")
    assert metric(tmp_path, "struck", "loss") == whole  # what the killed driver had not sent is there as well
    same_weights(tmp_path, "struck", uninterrupted)


def same_weights(folder: Path, name: str, uninterrupted: Path) -> None:
    expected = weights(uninterrupted, "whole")
    for key, weight in weights(folder, name).items():
        assert torch.equal(weight, expected[key]), key


def test_a_worker_that_hangs_leaves_stacks_and_the_run_goes_on(
    start: Start, shards: str, tmp_path: Path, uninterrupted: Path
) -> None:
    config = runs.write_config(tmp_path, shards, "hung", timeout_minutes=0.4, start_timeout_minutes=2)
    driver = start(config)
    runs.wait_for_checkpoint(driver, tmp_path / "hung", 5)
    runs.train_workers()[1].send_signal(signal.SIGSTOP)
    said = runs.finish(driver)
    assert "took more than 24 s; its stacks are in" in said
    assert "nothing was heard of worker" in said
    [stacks] = (tmp_path / "hung" / "hangs").iterdir()
    assert "all_reduce" in stacks.read_text() or "all_gather" in stacks.read_text()
    same_weights(tmp_path, "hung", uninterrupted)


@pytest.mark.slow  # minutes, since three nodes share the machine
def test_nodes_come_and_go(head: Head, start: Start, shards: str, tmp_path: Path) -> None:
    """Two workers on two nodes; one node gets notice, another one comes and is lost without."""
    steps = 240
    settings = {"workers": [1, 2], "cpus_per_worker": 1.2, "samples": steps * BATCH, "checkpoint_steps": 20}
    settings |= {"max_failures": 0, "resize_seconds": 2, "micro_batch_size": 2}
    run = tmp_path / "moved"
    config = runs.write_config(tmp_path, shards, "moved", **settings)
    driver = start(config)
    with clusters.join(head, tmp_path) as first:
        runs.wait_for_checkpoint(driver, run, 20)
        first.drain(head, 20)
        runs.wait_for_attempt(driver, run, 2)
        with clusters.join(head, tmp_path) as second:
            runs.wait_for_attempt(driver, run, 3)
            runs.wait_for_checkpoint(driver, run, runs.attempts(run)[-1]["step"] + 20)
            second.kill()
    said = runs.finish(driver)
    begun = runs.attempts(run)
    reasons = [attempt["reason"] for attempt in begun]
    assert [attempt["workers"] for attempt in begun] == [2, 1, 2, 1], reasons
    assert reasons[0] == ""
    assert reasons[2] == "there is room for 2 workers in place of 1"
    assert all(re.fullmatch(r"node [\d.]+ drained or lost", reason) for reason in (reasons[1], reasons[3])), reasons
    for attempt in begun[1:]:
        assert f"restart from step {attempt['step']}, workers {attempt['workers']}: {attempt['reason']}" in said
    assert begun[1]["step"] > 20
    compare(tmp_path, config, steps)


def compare(folder: Path, config: Path, steps: int) -> None:
    """The run with runs of one and of two workers to which nothing happened: the batches, losses and weights."""
    rows, states = [], []
    for workers in (1, 2):
        calm = folder / f"calm-{workers}"
        calm.mkdir()
        tree = yaml.safe_load(config.read_text())
        tree["run"]["storage"] = str(calm)
        (calm / "config.yaml").write_text(yaml.safe_dump(tree))
        found, state = runs.plain(calm / "config.yaml", workers)
        rows.append({row["step"]: row for row in found})
        states.append(state)
    digests, losses = (metric(folder, config.stem, key) for key in ("batch_digest", "loss"))
    assert sorted(digests) == list(range(1, steps + 1))
    spread = max(abs(rows[0][step]["loss"] - rows[1][step]["loss"]) for step in losses)
    for step in losses:
        assert digests[step] == {rows[0][step]["batch_digest"]} == {rows[1][step]["batch_digest"]}
        assert all(abs(loss - rows[0][step]["loss"]) <= 2 * spread for loss in losses[step]), step
    furthest = max(float((states[0][key] - states[1][key]).abs().max()) for key in states[0])
    for key, weight in weights(folder, config.stem).items():
        assert float((weight - states[0][key]).abs().max()) <= 2 * furthest, key
