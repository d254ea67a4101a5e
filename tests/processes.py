"""Several plain processes that share a process group, for tests of what workers do together without Ray."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run(world_size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`work(*arguments)` in `world_size` processes joined by gloo, which end with this one; the results, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_enter, (world_size, folder, work, arguments), nprocs=world_size, daemon=True)
        return [torch.load(Path(folder, f"result-{rank}"), weights_only=False) for rank in range(world_size)]


def _enter(rank: int, world_size: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    torch.save(work(*arguments), Path(folder, f"result-{rank}"))
    dist.barrier()
    dist.destroy_process_group()
