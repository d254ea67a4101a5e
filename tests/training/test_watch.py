"""The line beside the progress, and the FLOPs and traces that it and MLflow tell of."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import pairs
import processes
from cliploom import config as configs
from cliploom.models.flops import forward_flops
from cliploom.progress import Progress
from cliploom.settings.training import Train
from cliploom.training import meter, peak
from cliploom.training.meter import Meter
from cliploom.training.profiling import Profile
from cliploom.training.run import Run, plan_run
from cliploom.training.watch import Watch, line

ROW = {
    "loss": 1.23456,
    "samples_per_second": 1234.5,
    "mfu": 0.314,
    "data_wait_seconds": 0.5,
    "step_seconds": 0.25,
    "steps": 10,
    "samples": 81920,
}


def test_the_line_says_what_one_looks_for() -> None:
    assert line(ROW) == "loss 1.235  1,234 samples/s  MFU 31 %  data wait 20 %  81,920 samples"
    slow = {**ROW, "samples_per_second": 1.25}
    del slow["mfu"]
    assert line(slow) == "loss 1.235  1.2 samples/s  data wait 20 %  81,920 samples"


class Kept:
    """A tracker that has steps 1 and 2 of a killed job."""

    def __init__(self) -> None:
        self.found: list[tuple[int, Mapping[str, float]]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.found.append((step, metrics))

    def keep(self, uri: str, folder: str) -> None:
        raise AssertionError(uri)

    def steps(self, name: str) -> set[int]:
        return {1, 2} if name == "loss" else set()


def test_what_a_killed_job_had_not_sent_is_kept_once(tmp_path: Path) -> None:
    run, tracker = planned(tmp_path), Kept()
    with Progress("step", run.steps) as progress:
        watch = Watch(run, tracker, progress)
        for step in (1, 2, 3):
            watch({"before": {**ROW, "step": step, "attempt": 1}})
    [(step, metrics)] = tracker.found
    assert step == 3
    assert metrics["loss"] == ROW["loss"]
    assert "goodput" not in metrics  # of the time before the kill, which is not known
    assert watch.finish() == ""


def planned(folder: Path, *settings: str) -> Run:
    shards = pairs.write(folder / "pairs", shards=1, samples=16)
    given = [f"data.manifest={shards}", "run.name=r", f"run.storage={folder}", "model.name=ViT-mu-8-32"]
    return plan_run(
        configs.load(None, [*given, "train.global_batch_size=8", "train.samples=80", "train.precision=fp32", *settings])
    )


def metered(run: Run) -> tuple[dict[str, float], int]:
    """Two steps' metrics of a worker, and how many workers there are; texts of 20 tokens."""
    found = Meter(run, torch.device("cpu"))
    tokens = np.zeros((4, 77), np.int32)
    tokens[:, 19] = 49407
    for _ in range(2):
        with found.step():
            found.add(0.0, tokens)
            found.add(0.0, tokens)
    return found.metrics(), dist.get_world_size()


@pytest.mark.parametrize(
    ("setting", "image", "text"),
    [("train.lock=none", 3, 3), ("model.patch_dropout=0.5", 1.5, 3), ("model.weights=w train.lock=image", 1, 3)],
)
def test_mfu_is_the_models_flops_over_the_workers_peak(
    setting: str, image: float, text: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(tmp_path, *setting.split())
    monkeypatch.setattr(meter, "peak_flops", lambda device, precision: 1e9)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        metrics, _ = metered(run)
    finally:
        dist.destroy_process_group()
    flops = forward_flops(run.model, 20)
    expected = (image * flops.image + text * flops.text) * metrics["samples_per_second"] / 1e9
    assert metrics["mfu"] == pytest.approx(expected)
    assert metrics["steps"] == 2
    assert metrics["productive_seconds"] == pytest.approx(2 * metrics["step_seconds"])


@pytest.mark.integration
def test_the_peak_is_that_of_all_workers(tmp_path: Path) -> None:
    """Two workers on the same cores measure twice one's peak at most, and more than nothing."""
    run = planned(tmp_path)
    for metrics, world in processes.run(2, metered, run):
        assert world == 2
        assert metrics["mfu"] > 0


def test_a_peak_is_measured_where_no_table_knows_it() -> None:
    assert 1e8 < peak.peak_flops(torch.device("cpu"), "fp32") < 1e14


@pytest.mark.parametrize(
    ("instructions", "settings", "warns"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, {}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, {}, False),
        ({"avx2": True}, {"precision": "fp32"}, False),
        ({"avx2": True}, {"gpus_per_worker": 1}, False),
    ],
)
def test_bf16_without_instructions_for_it_is_warned_of(
    instructions: dict[str, bool], settings: dict[str, object], warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert ("train.precision=fp32" in (peak.warning(Train.model_validate(settings)) or "")) is warns


def test_a_trace_holds_the_steps_asked_for(tmp_path: Path) -> None:
    written: list[str] = []
    profile = Profile((2, 3), str(tmp_path), written.append)
    for number in range(1, 6):
        with profile.step(number), torch.profiler.record_function(f"step-{number}"):
            torch.ones(8, 8) @ torch.ones(8, 8)
    [uri] = written
    with gzip.open(uri) as file:
        trace: dict[str, Any] = json.load(file)
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"step-2", "step-3", "aten::mm"} <= names
    assert not {"step-1", "step-4"} & names
