"""What several integration tests of training share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pairs
import runs
import servers
from clusters import Head


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The manifest of 96 pairs in four shards."""
    return pairs.write(tmp_path_factory.mktemp("pairs"), several=True)


@pytest.fixture(scope="session")
def uninterrupted(head: Head, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run called `whole`, submitted to the cluster, and never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    job = str(servers.ROOT / "jobs" / "train.py")
    answer = runs.submit(head, "python", job, "--config", str(runs.write_config(folder, shards, "whole")))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "registered test version 1, alias candidate" in answer.stdout
    lines = answer.stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("run "))
    assert [line.split()[0] for line in lines[first : first + 3]] == ["run", "storage", "mlflow"]
    return folder


@pytest.fixture
def start(head: Head) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the job train on the shared cluster; what still runs at the test's end is killed."""
    drivers: list[subprocess.Popen[str]] = []

    def begin(config: Path, **environment: str) -> subprocess.Popen[str]:
        drivers.append(runs.start(head, config, **environment))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.kill()
        driver.wait()
