"""The Ray cluster that cliploom's sides of the measurements run on."""

from __future__ import annotations

from typing import Any

import ray

from cliploom import cluster


def start(store_mib: int = 1024) -> None:
    """A cluster of this process's own, of two CPUs."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=store_mib << 20,
        include_dashboard=False,
        log_to_driver=False,
        _system_config=cluster.SYSTEM,
    )


def start_with_idle(actors: int) -> list[Any]:
    """The same with actors that do nothing, for as long as these handles are kept.

    Ray wakes each of its processes a hundred times a second to look for signals, with work or without.
    """
    start()
    idle: list[Any] = [ray.remote(num_cpus=0)(_Idle).remote() for _ in range(actors)]
    ray.get([actor.is_there.remote() for actor in idle])
    return idle


class _Idle:
    def is_there(self) -> bool:
        return True
