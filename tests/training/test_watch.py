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
from cliploom.errors import StorageError
from cliploom.models.flops import forward_flops
from cliploom.progress import Progress
from cliploom.settings.training import Train
from cliploom.training import meter, peak
from cliploom.training.meter import Meter
from cliploom.training.profiling import Profile
from cliploom.training.run import Run, plan_run
from cliploom.training.trainer import Listener
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
        self.refuses = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.found.append((step, metrics))

    def keep(self, uri: str, folder: str) -> None:
        if self.refuses:
            raise StorageError("MLflow is away")

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
    assert watch.summary() == ""


def test_a_trace_that_mlflow_does_not_take_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, tracker = planned(tmp_path), Kept()
    tracker.refuses = True
    with Progress("step", run.steps) as progress:
        Watch(run, tracker, progress)({"artifact": "trace.json"})
    assert "trace.json has no copy with the run's metrics: MLflow is away" in capsys.readouterr().out


def test_a_failed_run_says_why_though_its_record_can_not_be_kept(tmp_path: Path) -> None:
    run = planned(tmp_path)
    watch = Watch(run, Kept(), Progress("step", run.steps))
    Path(run.folder).write_text("a file where the run's folder should be")
    with pytest.raises(RuntimeError, match="the cause"), watch:
        raise RuntimeError("the cause")
    with pytest.raises(FileExistsError), watch:
        pass


def test_a_report_that_fails_holds_up_none_and_is_raised_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []

    def report(row: dict[str, Any]) -> None:
        if row["step"] in (1, 3):
            raise ValueError(f"no {row['step']}")
        taken.append(row["step"])

    with pytest.raises(ValueError, match="no 1"), Listener(lambda: [{"step": step} for step in range(1, 5)], report):
        pass
    assert taken == [2, 4]
    assert [record.getMessage() for record in caplog.records] == [
        f"a report could not be passed on: ValueError: no {step}" for step in (1, 3)
    ]


def planned(folder: Path, *settings: str) -> Run:
    shards = pairs.write(folder / "pairs", shards=1, samples=16)
    given = [f"data.manifest={shards}", "run.name=r", f"run.storage={folder}", "model.name=ViT-mu-8-32"]
    return plan_run(
        configs.load(None, [*given, "train.global_batch_size=8", "train.samples=80", "train.precision=fp32", *settings])
    )


def metered(run: Run) -> dict[str, float]:
    """Two steps' metrics of a worker; texts of 20 tokens."""
    found = Meter(run, torch.device("cpu"))
    tokens = np.zeros((4, 77), np.int32)
    tokens[:, 19] = 49407
    for _ in range(2):
        with found.step():
            found.add(0.0, tokens)
            found.add(0.0, tokens)
    return found.metrics()


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
        metrics = metered(run)
    finally:
        dist.destroy_process_group()
    flops = forward_flops(run.model, 20)
    expected = (image * flops.image + text * flops.text) * metrics["samples_per_second"] / 1e9
    assert metrics["mfu"] == pytest.approx(expected)
    assert metrics["steps"] == 2
    assert metrics["productive_seconds"] == pytest.approx(2 * metrics["step_seconds"])


def metered_unlike(run: Run) -> dict[str, float]:
    """As `metered`, on devices of which the second can do twice as much as the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "peak_flops", lambda device, precision: (dist.get_rank() + 1) * 1e9)
        return metered(run)


@pytest.mark.integration
def test_the_peak_is_that_of_all_workers(tmp_path: Path) -> None:
    run = planned(tmp_path)
    flops = forward_flops(run.model, 20)
    for metrics in processes.run(2, metered_unlike, run):
        expected = 3 * (flops.image + flops.text) * metrics["samples_per_second"] / 3e9
        assert metrics["mfu"] == pytest.approx(expected)


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
