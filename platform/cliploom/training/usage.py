"""What a node's processor, memory, network and GPUs do while it trains, under MLflow's names for system metrics."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import psutil
import torch

_INTERVAL_SECONDS = 10.0
_MEGABYTE = 1e6


class Usage:
    """Reports a row `{"node": ..., "system": {name: value}}` every so often, for as long as the block runs."""

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="usage", daemon=True)

    def __enter__(self) -> Usage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        psutil.cpu_percent()  # counts from one call to the next
        network = psutil.net_io_counters()
        while not self._done.wait(_INTERVAL_SECONDS):
            now = psutil.net_io_counters()
            moved = {
                "network_receive_megabytes": (now.bytes_recv - network.bytes_recv) / _MEGABYTE,
                "network_transmit_megabytes": (now.bytes_sent - network.bytes_sent) / _MEGABYTE,
            }
            network = now
            self._report({"node": os.uname().nodename, "system": usage() | moved})


def usage() -> dict[str, float]:
    """This node's, now."""
    memory = psutil.virtual_memory()
    found = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / _MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
    }
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        found[f"gpu_{number}_memory_usage_megabytes"] = (total - free) / _MEGABYTE
        found[f"gpu_{number}_memory_usage_percentage"] = 100 * (total - free) / total
    return found
