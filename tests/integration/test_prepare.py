from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cliploom import storage
from cliploom.config import Config
from cliploom.data import manifest, shards
from cliploom.data.indexing import make_index
from cliploom.data.prepare import prepare
from cliploom.errors import InputError
from cliploom.settings.data import Index, Prepare
from pairs import draw

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
SHARDS = 120


def serially(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return ((item, function(item)) for item in items)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two pairs a shard."""
    (tmp_path / "raw").mkdir()
    for i in range(2 * SHARDS):
        (tmp_path / "raw" / f"{i:04d}.png").write_bytes(draw("red", "ellipse", 40 + i))
        (tmp_path / "raw" / f"{i:04d}.txt").write_text(f"caption {i}")
    return tmp_path / "raw"


def job(source: Path, output: Path) -> subprocess.Popen[str]:
    settings = [f"prepare.source={source}", f"prepare.output={output}", "prepare.shard_samples=2", "ray.cpus=2"]
    command = [sys.executable, str(ROOT / "jobs" / "prepare.py"), *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def content(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_killed_at_any_point_and_run_again_it_ends_as_if_it_was_not(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    enough = random.randrange(1, SHARDS // 2)
    first = job(source, output)
    family = psutil.Process(first.pid)
    deadline = time.monotonic() + 120
    while len(list(output.glob(".prepare/*.json"))) < enough:
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    family.suspend()  # it hands out no more work while its processes are looked up
    processes = [family, *family.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    first.communicate()
    psutil.wait_procs(processes[1:], timeout=60)
    assert enough <= len(list(output.glob(".prepare/*.json"))) < SHARDS
    assert not (output / "manifest.parquet").exists()
    second = job(source, output)
    said, _ = second.communicate(timeout=180)
    assert second.returncode == 0, said
    assert f"{2 * SHARDS} samples in {SHARDS} shards" in said
    whole = prepare(
        Config(prepare=Prepare(source=str(source), output=str(tmp_path / "whole"), shard_samples=2)), serially
    )
    assert manifest.load(str(output)).fingerprint == manifest.load(whole.uri).fingerprint
    left, right = content(output), content(tmp_path / "whole")
    # Hidden are the job's own records, and what a write that was killed has left; nothing reads the latter.
    assert {name for name in left if not name.startswith(".")} == {name for name in right if not name.startswith(".")}
    assert all(left[name] == right[name] for name in left if name.endswith((".tar", ".parquet")))


def test_from_local_folder_to_s3_and_back(source: Path, s3: Callable[[], str]) -> None:
    bucket = s3()
    settings = Prepare(source=str(source), output=f"{bucket}/set", shard_samples=100)
    result = prepare(Config(prepare=settings), serially)
    made = manifest.load(result.uri)
    made.check()
    read = shards.read_samples(made.shards[1], made.index(1), [99, 0])
    assert [text for _, text in read] == [b"caption 199", b"caption 100"]
    assert read[1][0] == (source / "0100.png").read_bytes()

    indexed = make_index(
        Config(index=Index(shards=f"{bucket}/set", output=f"{bucket}/index", content_digest=True)), serially
    )
    other = manifest.load(indexed.uri)
    assert other.shards == made.shards
    assert other.index(2).image_offset.tolist() == made.index(2).image_offset.tolist()
    pattern = manifest.load(f"{bucket}/set/{{00000..00002}}.tar")
    assert pattern.samples == 2 * SHARDS

    third = made.shards[2].uri
    storage.write(third, storage.read(third)[:-512] + bytes(511) + b"x")
    with pytest.raises(InputError, match=r"00002\.tar has changed"):
        shards.read_samples(made.shards[2], made.index(2), [0])
    storage.delete(third)
    with pytest.raises(InputError, match=r"00002\.tar, which is gone"):
        made.check()
    with pytest.raises(InputError, match=r"there is no manifest at s3://"):
        manifest.load(f"{bucket}/none")
    with pytest.raises(InputError, match=r"prepare\.source"):
        prepare(Config(prepare=Prepare(source=f"{bucket}-none/x", output=f"{bucket}/y")), serially)
