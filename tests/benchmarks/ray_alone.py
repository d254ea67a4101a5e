"""The Ray cluster that cliploom's sides of the measurements run on."""

from __future__ import annotations

import ray

from cliploom import cluster


def start() -> None:
    """A cluster of this process's own, of two CPUs."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=1 << 30,
        include_dashboard=False,
        log_to_driver=False,
        _system_config=cluster.SYSTEM,
    )
