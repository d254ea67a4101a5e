"""A run whose pixels are twenty times the object store: nothing is spilled, and memory does not grow with the run.

What the store and the processes held is written down in build/store.json.
"""

from __future__ import annotations

import re
import statistics
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

import clusters
import pairs
import runs
import servers
from benchmarks.machine import keep
from benchmarks.memory import proportional, tree
from clusters import Head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STORE = 100 << 20
PIXELS = 3 * 64**2  # bytes of a sample
BATCH = 512
STEPS = -(-20 * STORE // (PIXELS * BATCH))


def write_config(folder: Path, shards: str) -> Path:
    tree = {
        "run": {"name": "large", "storage": str(folder)},
        "data": {"manifest": shards, "cpus_per_task": 0.4},
        "model": {"name": "RN14-mu-64"},
        "train": {
            "global_batch_size": BATCH,
            "micro_batch_size": 128,
            "precision": "fp32",
            "cpus_per_worker": 0.7,
            "samples": STEPS * BATCH,
            "checkpoint_steps": STEPS,
            "log_steps": 10,
        },
        "registry": {"model_name": "test"},
    }
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def scraped(head: Head, name: str) -> list[float]:
    """The values of a metric of Ray's, over all its labels; none until it is gathered for the first time."""
    with urllib.request.urlopen(head.metrics, timeout=10) as answer:
        return [float(value) for value in re.findall(rf"^{name} (\S+)$", answer.read().decode(), re.M)]


def test_data_of_twenty_object_stores(tmp_path: Path) -> None:
    shards = pairs.write(tmp_path / "pairs", samples=1000, size=70)
    (tmp_path / "ray").mkdir()
    stored, memory = [], []
    with clusters.start(tmp_path / "ray", STORE) as head:
        driver = runs.start(head, write_config(tmp_path, shards))
        while driver.poll() is None:
            if (tmp_path / "large" / "attempts").exists():
                stored.append(sum(scraped(head, r'ray_object_store_memory\{[^}]*Location="MMAP_SHM"[^}]*\}')))
                memory.append(sum(map(proportional, [*tree(head.pid), *tree(driver.pid)])))
            time.sleep(2)
        runs.finish(driver)
        spilled = sum(scraped(head, r'ray_spill_manager_objects_bytes\{[^}]*State="Spilled"[^}]*\}'))
    quarter = len(memory) // 4
    quarters = [statistics.median(memory[n * quarter : (n + 1) * quarter]) for n in range(4)]
    found = {
        "object_store_mib": STORE >> 20,
        "pixels_mib": STEPS * BATCH * PIXELS >> 20,
        "most_in_the_store_mib": round(max(stored) / 2**20, 1),
        "spilled_mib": round(spilled / 2**20, 1),
        "memory_mib_by_quarters_of_the_run": [round(held / 2**20) for held in quarters],
    }
    keep(servers.ROOT / "build" / "store.json", found)
    assert max(stored) > 0
    assert spilled == 0
    assert quarters[3] < 1.1 * quarters[1]
