"""The curate job in Ray tasks: killed and run again, and on S3."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import pairs
import servers
from cliploom import storage
from cliploom.config import Config
from cliploom.data import manifest
from cliploom.data.curation.curate import curate
from cliploom.data.shards import ShardWriter

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
SHARDS, SAMPLES = 120, 4
CHOICE: dict[str, Any] = {"per_query": 30, "duplicates": {"images": True}, "seed": 5}


def serially(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return ((item, function(item)) for item in items)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    rows = []
    for number in range(SHARDS):
        with ShardWriter(str(folder / "shards" / f"{number:05d}.tar")) as writer:
            for place in range(number * SAMPLES, (number + 1) * SAMPLES):
                colour, shape = pairs.COLOURS[place % 7], pairs.SHAPES[place % 3]
                writer.add(f"{place:05d}", pairs.draw(colour, shape, 40 + place), "png", [f"a {colour} {shape}"])
        rows.append((writer.shard, writer.index))
    manifest.write(str(folder / "shards" / manifest.NAME), rows)
    (folder / "words").write_text("\n".join([*pairs.COLOURS[:5], "Ellipse", "blue line"]))
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that nobody disturbs makes."""
    output = tmp_path_factory.mktemp("whole")
    queries = {"lists": [str(source / "words")]}
    tree = {"manifest": str(source / "shards"), "output": str(output), "queries": queries, **CHOICE}
    curate(Config.model_validate({"curate": tree}), serially)
    return output


def job(source: Path, output: Path) -> subprocess.Popen[str]:
    settings = [f"curate.manifest={source / 'shards'}", f"curate.output={output}", "curate.seed=5", "ray.cpus=2"]
    settings += [
        f"curate.queries.lists=[{source / 'words'}]",
        "curate.per_query=30",
        "curate.duplicates.images=true",
    ]
    command = [sys.executable, str(ROOT / "jobs" / "curate.py"), *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_once(running: subprocess.Popen[str], files: Callable[[], list[Path]], enough: int) -> None:
    """End the job and all its processes with SIGKILL as soon as so many files are there."""
    family = psutil.Process(running.pid)
    deadline = time.monotonic() + 120
    while len(files()) < enough:
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    family.suspend()  # it hands out no more work while its processes are looked up
    processes = [family, *family.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    running.communicate()
    psutil.wait_procs(processes[1:], timeout=60)


def content(output: Path) -> dict[str, bytes]:
    """What is there but for the job's own notes."""
    return {path.name: path.read_bytes() for path in output.iterdir() if path.is_file() and path.name[0] != "."}


def test_killed_at_any_point_and_run_again_it_ends_as_if_it_was_not(source: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    kill_once(job(source, output), lambda: list(output.glob(".curate/facts-*/*.npz")), random.randrange(1, SHARDS))
    assert not list(output.glob("*.tar"))
    expected = content(whole)
    tars = sum(name.endswith(".tar") for name in expected)
    kill_once(job(source, output), lambda: list(output.glob("*.tar")), random.randrange(1, tars // 2))
    assert not (output / "manifest.parquet").exists()
    last = job(source, output)
    said, _ = last.communicate(timeout=180)
    assert last.returncode == 0, said
    assert "above the limit of its queries" in said
    found = content(output)
    reports = [json.loads(files.pop("report.json")) for files in (found, expected)]
    for report in reports:
        del report["settings"]["output"]
    assert reports[0] == reports[1]
    assert found == expected
    assert not list(output.glob(".curate/attempt-*"))


def test_from_s3_to_s3(source: Path, whole: Path, s3: Callable[[], str]) -> None:
    bucket = s3()
    for file in storage.files(str(source)):
        storage.upload(Path(file.uri), f"{bucket}/{Path(file.uri).relative_to(source)}")
    queries = {"lists": [f"{bucket}/words"], "reference": f"{bucket}/words", "min_count": 1}
    tree = {"manifest": f"{bucket}/shards", "output": f"{bucket}/out", "queries": queries, **CHOICE}
    result = curate(Config.model_validate({"curate": tree}), serially)
    made = manifest.load(result.uri or "")
    made.check()
    assert made.samples == result.report["kept"] > 0
    queries = {"lists": [f"{bucket}/words"]}
    result = curate(Config.model_validate({"curate": {**tree, "queries": queries}}), serially)
    assert manifest.load(result.uri or "").fingerprint == manifest.load(str(whole)).fingerprint
    expected = content(whole)
    left = {storage.name(file.uri) for file in storage.files(f"{bucket}/out") if "/.curate/" not in file.uri}
    assert left == set(expected)
    assert storage.read(f"{bucket}/out/queries.parquet") == expected["queries.parquet"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("curate.manifest=/none", "there is no manifest at /none"),
        ("curate.queries.lists=[/none]", "curate.queries.lists: there is no file /none"),
        ("curate.per_querry=3", "did you mean curate.per_query?"),
    ],
)
def test_wrong_input_is_answered_in_one_line(source: Path, tmp_path: Path, setting: str, said: str) -> None:
    settings = [f"curate.manifest={source / 'shards'}", f"curate.output={tmp_path}", setting]
    found = servers.run_job("curate", "--config", "jobs/configs/curate.yaml", "ray.cpus=1", *settings)
    assert found.returncode == 2, found.stdout + found.stderr
    [line] = found.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []
