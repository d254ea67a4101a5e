"""The connection to Ray: the cluster that a job was submitted to, a named one, or one on this machine alone."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cliploom import pools
from cliploom.errors import InputError
from cliploom.settings.cluster import Ray

# Where more processes have reserved CPUs than there are CPUs, Ray ends those that were without a task for a second. A
# small machine that trains is always like that: each stretch would be read by a process that starts for it alone.
# And what was done with stays in the object store for a second, which is as much again as the stream needs.
# `cluster/Dockerfile` says the same to the nodes of a cluster.
SYSTEM = {"idle_worker_killing_time_threshold_ms": 600_000, "free_objects_period_milliseconds": 100}


@contextmanager
def connect(config: Ray, dashboard: bool = False) -> Iterator[None]:
    """Be connected to Ray inside the block; a cluster started for it ends with it.

    A connection that is already there is used and left as it is.

    Args:
        config: which cluster.
        dashboard: whether one that is started has a dashboard, by which Ray Train tidies up after killed drivers.

    Raises:
        InputError: no cluster answers at `ray.address`, or the file of its node types can't be read.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    address = config.address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # otherwise workers' lines are printed twice
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",  # a stale file of a cluster long gone must not be taken for one
                num_cpus=config.cpus,
                object_store_memory=int(config.object_store_gb * 2**30),
                include_dashboard=dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _system_config=SYSTEM,
            )
    except ConnectionError as error:
        raise InputError(f"ray.address: no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from None
    try:
        pools.publish()
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own there, and leaves the system's behind
