"""A run whose shards vanish or change while it trains stops, with one line that names the shard, and exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import pairs
import servers
from cliploom import storage
from clusters import Head

pytestmark = pytest.mark.integration


def test_a_shard_that_is_another_than_the_manifests(head: Head, s3: Callable[[], str], tmp_path: Path) -> None:
    """Its size is the same, so that only who reads it can tell."""
    pairs.write(tmp_path / "pairs", shards=2, samples=16)
    bucket = s3()
    changed = bytearray((tmp_path / "pairs" / "00001.tar").read_bytes())
    changed[600] ^= 1
    (tmp_path / "pairs" / "00001.tar").write_bytes(changed)
    for path in sorted((tmp_path / "pairs").iterdir()):
        storage.upload(path, f"{bucket}/pairs/{path.name}")
    tree = {
        "run": {"name": "lost", "storage": str(tmp_path)},
        "data": {"manifest": f"{bucket}/pairs", "cpus_per_task": 0.2},
        "model": {"name": "ViT-mu-8-32"},
        "train": {
            "global_batch_size": 8,
            "samples": 64,
            "workers": 2,
            "cpus_per_worker": 0.7,
            "max_failures": 1,
            "precision": "fp32",
        },
        "registry": {"model_name": "test"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    environment = {**head.environment, "RAY_ADDRESS": head.address}
    answer = servers.run_job("train", "--config", str(tmp_path / "config.yaml"), env=environment)
    assert answer.returncode == 2, answer.stdout + answer.stderr
    [line] = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert line == (
        f"error: shard {bucket}/pairs/00001.tar has changed since its manifest was made: run jobs/index.py again"
    )
