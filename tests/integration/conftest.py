"""What several integration tests of training share."""

from __future__ import annotations

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
