"""What several integration tests share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pairs
import runs
import servers
from cliploom import cluster, models
from cliploom.models import weights
from cliploom.settings.cluster import Ray
from clusters import Head
from mlflow_servers import ADMIN, PASSWORD


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The manifest of 96 pairs in four shards."""
    return pairs.write(tmp_path_factory.mktemp("pairs"), several=True)


@pytest.fixture(scope="module")
def ray(s3: Callable[[], str]) -> Iterator[None]:
    """A connection of this process to one cluster, that of the module's tests; its workers know the S3 server."""
    with cluster.connect(Ray(cpus=2)):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported weights of a small CLIP, with random weights."""
    folder = tmp_path_factory.mktemp("weights") / "mu"
    weights.save(models.create(models.preset("ViT-mu-8-32"), seed=0), folder)
    return folder


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the MLflow servers' administrator."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


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
