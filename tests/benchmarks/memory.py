"""The memory of a process and its children, sampled (Linux alone)."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class Memory:
    """The peak of the proportional set size of this process and its descendants inside the block, in bytes."""

    peak = 0

    def __enter__(self) -> Memory:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(3.0):
            self.peak = max(self.peak, sum(map(proportional, tree(os.getpid()))))

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def proportional(process: int) -> int:
    """Bytes of its memory, what is shared counted in parts."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
