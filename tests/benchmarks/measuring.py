"""What both sides of a comparison share: inputs, clocks, and the memory that a piece of work takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def best(work: Callable[[], object], rounds: int, warm_up: bool = True) -> float:
    """Seconds of the fastest of several rounds, after one that warms up."""
    if warm_up:
        work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def load_batch(file: str) -> tuple[Tensor, Tensor]:
    """Pixels uint8 [B, 3, H, W] and tokens int64 [B, 77]."""
    batch = torch.load(file, weights_only=True)
    return batch["pixels"], batch["tokens"]


def random_features(count: int, width: int) -> tuple[Tensor, Tensor]:
    """Image and text features of unit length, the same for everybody."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(count, width, generator=generator) for _ in range(2)]
    image, text = (torch.nn.functional.normalize(part, dim=-1) for part in drawn)
    return image, text


def extra_memory(
    work: Callable[[tuple[Tensor, Tensor]], object], count: int, width: int, rounds: int
) -> dict[str, float]:
    """Seconds of work on random features, and MiB that it takes beyond them at the most."""
    work(random_features(64, width))  # loads the libraries
    features = random_features(count, width)
    before = high_water(reset=True)
    work(features)
    grown = (high_water() - before) / 1024
    return {"mebibytes": grown, "seconds": best(lambda: work(features), rounds, warm_up=False)}


def high_water(reset: bool = False) -> int:
    """The most memory that this process has held, in KiB; since now where it is `reset` (Linux alone)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
