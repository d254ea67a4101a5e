"""The plan as a whole, and what it says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import pairs
import servers
from cliploom.data import blocks, mixture, vocabulary
from cliploom.data.plan import WorkItem, work_items
from cliploom.data.reader import Reader, Source
from cliploom.models.presets import preset
from cliploom.planning import GPUS, Assumptions, Job, plan
from cliploom.planning.__main__ import main
from cliploom.planning.step import batch_bytes
from cliploom.settings.data import Data

MODEL, PARAMETERS = preset("ViT-L-14"), 428e6


def job(gpus: int, zero_stage: int = 1, batch: int = 32_768) -> Job:
    return Job.of(MODEL, PARAMETERS, gpus, batch, zero_stage, passes=4)


def test_a_batch_has_the_bytes_that_the_stream_brings(tmp_path: Path) -> None:
    found = mixture.choose(Data(manifest=pairs.write(tmp_path)))
    source = Source(found.recipe, found.fingerprint, 0, 1, 64, (0.9, 1.0), None, vocabulary.clip().digest)
    [item] = [WorkItem(*item) for item in work_items(0, 1, 64, 1, 64)]
    real = blocks.read(Reader(source), [item], blocks.Memory()).nbytes
    assert batch_bytes(job(1, batch=64)._replace(image_size=64)) == pytest.approx(real, rel=0.01)


def test_more_gpus_cost_more_and_take_less_time() -> None:
    plans = [plan(job(gpus), GPUS["A100"], 12.8e9, Assumptions()) for gpus in (8, 64, 1024)]
    assert [found.days for found in plans] == sorted((found.days for found in plans), reverse=True)
    assert [found.cost for found in plans] == sorted(found.cost for found in plans)
    assert [found.goodput for found in plans] == sorted((found.goodput for found in plans), reverse=True)
    assert [found.bottleneck for found in plans] == ["arithmetic", "arithmetic", "collectives"]


def test_ingest_keeps_up_with_training() -> None:
    assumed = Assumptions()
    found = plan(job(1024), GPUS["A100"], 12.8e9, assumed)
    cores = found.samples_per_second * assumed.decode_seconds
    assert cores <= found.ingest_nodes * assumed.ingest_cores
    slow = replace(assumed, ingest_bytes_per_second=1e8)  # the network holds it up, not the cores
    more = plan(job(1024), GPUS["A100"], 12.8e9, slow)
    assert more.ingest_nodes * 1e8 >= more.samples_per_second * (slow.sample_bytes + 3 * 224**2)


def test_the_cores_numbers_are_those_that_were_measured() -> None:
    """And what they were not fitted to came out as stated."""
    results = sorted((servers.ROOT / "tests" / "benchmarks" / "results").glob("*-planning.json"))
    told = json.loads(results[-1].read_text())
    assert Assumptions().decode_microseconds == pytest.approx(told["decode_microseconds"], rel=0.01)
    assert Assumptions().decode_nanoseconds == pytest.approx(told["decode_nanoseconds"], rel=0.01)
    assert max(abs(row["error"]) for row in told["decoding"] if not row["fitted"]) < 0.11


def test_the_command_prints_the_answer_and_what_it_assumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "ViT-B-32", "--gpus", "8", "--gpu-hour", "3.25", "--save-seconds", "2.5"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("ViT-B-32 on A100s, batch 32,768, 12.8 G samples, ZeRO 1")
    assert "gpu_hour 3.25" in told
    assert "save_seconds 2.5" in told
    assert main(["--model", "ViT-B-33"]) == 2
    assert "ViT-B-33" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--gpus", "--batch", "--micro-batches", "--ingest-cores", "--gpus-per-node"])
def test_of_what_is_counted_there_is_one_at_least(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("0", "-8", "2.5"):
        with pytest.raises(SystemExit) as ended:
            main([f"{option}={wrong}"])
        assert ended.value.code == 2
        assert f"argument {option}: {wrong} is no whole number above 0" in capsys.readouterr().err
