"""What every test runs under, and the servers that several of them share."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator

# Before anything imports torch, Ray or MLflow.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",  # tests run several processes on few cores
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # otherwise workers' lines are printed twice
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # by default a report of a checkpoint takes 1-2 s
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "AWS_EC2_METADATA_DISABLED": "true",  # otherwise missing credentials are looked for in the network
    }
)
os.environ.pop("MLFLOW_TRACKING_URI", None)  # tests have stores of their own

import pytest
from hypothesis import HealthCheck, settings

import clusters
import servers

# Cores are shared, so slowness is no fault. CI judges a change on the same examples each time; by hand, others come.
settings.register_profile(
    "tests",
    deadline=None,
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")


_PATH = list(sys.path)


@pytest.fixture(autouse=True)
def _same_path() -> Iterator[None]:
    """MLflow puts a loaded model's own code on the path for good, where later tests' processes would find it."""
    yield
    sys.path[:] = _PATH


@pytest.fixture(scope="session", autouse=True)
def _own_shard_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Shards of other runs don't stand in for those that a test makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPLOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """A real S3 server, which the environment leads to; call the fixture for the URI of a fresh bucket."""
    import boto3

    from cliploom.s3 import client

    def bucket() -> str:
        name = f"test-{uuid.uuid4().hex}"
        boto3.client("s3").create_bucket(Bucket=name)
        return f"s3://{name}"

    with servers.seaweedfs(tmp_path_factory.mktemp("s3")) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in servers.s3_environment(endpoint).items():
            patch.setenv(name, value)
        client.cache_clear()  # one may have been made for another environment
        yield bucket
    client.cache_clear()


@pytest.fixture(scope="session")
def head(s3: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Head]:
    """The one Ray cluster that all tests which submit jobs share; the S3 server is there before it."""
    with clusters.start(tmp_path_factory.mktemp("ray")) as started:
        yield started
