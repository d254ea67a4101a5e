"""Whether an error is want of memory, which would come again at the same settings."""

from __future__ import annotations

from pathlib import Path

import torch

_ON_HOST = ("can't allocate memory", "not enough memory")  # of torch's allocator, in a plain RuntimeError


def is_short(error: BaseException) -> bool:
    """Whether the device or the host had no memory left for this process."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ON_HOST)


def kernel_kills() -> int:
    """Processes that this machine's kernel has killed for want of memory since it started; 0 where it doesn't say."""
    path = Path("/proc/vmstat")
    rows = dict(line.split() for line in path.read_text().splitlines()) if path.is_file() else {}
    return int(rows.get("oom_kill", 0))
