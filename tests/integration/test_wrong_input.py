"""Wrong input is answered in one line that names the culprit and the mend, with exit code 2, and starts nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import pairs
import servers
from clusters import Head

pytestmark = pytest.mark.integration
CLOSED = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a run that would be right."""
    folder = tmp_path_factory.mktemp("right")
    tree = {
        "run": {"name": "right", "storage": str(folder)},
        "data": {"manifest": pairs.write(folder / "shards", shards=2, samples=8)},
        "model": {"name": "ViT-mu-8-32"},
        "train": {"global_batch_size": 4, "samples": 8, "workers": 2},
        "registry": {"model_name": "test"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def answer(config: Path, *settings: str, **environment: str) -> str:
    """The one line that the train job answers with."""
    found = servers.run_job("train", "--config", str(config), *settings, env=environment)
    assert found.returncode == 2, found.stdout + found.stderr
    [line] = found.stderr.splitlines()
    assert line.startswith("error: ")
    assert not (config.parent / "right" / "attempts").exists(), "nothing may have begun"
    return line


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.manifest=/no/such/folder", "there is no manifest at /no/such/folder: make one with jobs/prepare.py"),
        ("train.global_batch_sise=8", "did you mean train.global_batch_size?"),
        ("train.offload=true train.zero_stage=0", "train.offload needs a part of the state for each worker"),
        ("train.global_batch_size=1", "train.global_batch_size=1 is smaller than the number of workers, 2"),
        ("model.name=ViT-B/32", "no model is called ViT-B/32; did you mean ViT-B-32?"),
        ("train.samples=3", "3 samples make no global batch of 4"),
        ("train.epochs=2", "give either train.samples or train.epochs"),
        ("run.storage=/proc/nowhere", "run.storage: /proc/nowhere/right can't be written to"),
        (f"registry.uri={CLOSED}", "registry.uri"),
        ("registry.uri=ftp://example", "neither http(s)://HOST nor sqlite:///FILE"),
    ],
)
def test_a_setting(config: Path, setting: str, said: str) -> None:
    assert said in answer(config, *setting.split())


def test_no_config_file(tmp_path: Path) -> None:
    found = servers.run_job("train", "--config", str(tmp_path / "none.yaml"))
    assert (found.returncode, found.stderr) == (2, f"error: no config file at {tmp_path / 'none.yaml'}\n")


def test_a_shard_that_is_gone(config: Path, tmp_path: Path) -> None:
    uri = pairs.write(tmp_path, shards=2, samples=8)
    (tmp_path / "00001.tar").unlink()
    assert f"names the shard {tmp_path}/00001.tar, which is gone" in answer(config, f"data.manifest={uri}")


def test_an_s3_that_is_not_there(config: Path) -> None:
    line = answer(config, "run.storage=s3://bucket/runs", "registry.uri=sqlite:////tmp/x.db", AWS_ENDPOINT_URL=CLOSED)
    assert "s3://bucket/runs" in line


def test_an_s3_that_refuses_the_secret(config: Path, s3: object) -> None:
    bucket = s3()  # type: ignore[operator]
    settings = (f"run.storage={bucket}/runs", "registry.uri=sqlite:////tmp/x.db")
    assert "the secret key is refused" in answer(config, *settings, AWS_SECRET_ACCESS_KEY="another")


def test_more_than_the_cluster_has(config: Path, head: Head) -> None:
    environment = {**head.environment, "RAY_ADDRESS": head.address}
    line = answer(config, "train.cpus_per_worker=8", **environment)
    assert "2 workers and data.cpus_per_task need 17 CPU, the cluster has 2: lower train.cpus_per_worker, data" in line


def test_a_run_that_was_begun_otherwise(config: Path, head: Head, tmp_path: Path) -> None:
    environment = {**head.environment, "RAY_ADDRESS": head.address}
    settings = (f"run.storage={tmp_path}", "train.workers=1", "train.cpus_per_worker=0.7")
    first = servers.run_job("train", "--config", str(config), *settings, env=environment)
    assert first.returncode == 0, first.stdout + first.stderr
    line = answer(config, *settings, "train.seed=5")
    assert "run right was begun with train.seed=0, not 5: set that again, or give a new run.name" in line
