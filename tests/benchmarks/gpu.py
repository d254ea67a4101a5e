"""Training steps on a GPU: samples/s, share of a matrix product's FLOP rate (MFU) and peak memory, in bf16.

    PYTHONPATH=tests:tests/benchmarks python tests/benchmarks/gpu.py [--output FILE]

Compiled and not; ViT-B-32, ViT-B-16 and ViT-L-14; beside open_clip's models under autocast where open_clip can be
imported. Captions have 77 tokens, so that both do the same work; ours with captions of natural length, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine
from measuring import load_batch
from model import write_batch
from ours import BUCKETS, Network, flops
from rich.console import Console
from rich.table import Table

from cliploom import models
from cliploom.objectives import Ranks, contrastive
from cliploom.training.step import MicroBatch, loss_and_gradients

BATCHES = {"ViT-B-32": 1024, "ViT-B-16": 512, "ViT-L-14": 256}
ROUNDS = 10
Step = Callable[[], None]


def main(argv: list[str]) -> None:
    """Measure, print a table, and write the figures with --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("error: there is no GPU: this measures what make bench can't")
    rows = [row for name, batch in BATCHES.items() for row in measure(name, batch)]
    table = Table(title=torch.cuda.get_device_name(), title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=140).print(table)
    if options.output:
        report = {**machine(), "gpu": torch.cuda.get_device_name(), "rows": rows}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def measure(name: str, batch: int) -> list[dict[str, Any]]:
    """All rows of a preset."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("full", "natural"):
            file = str(write_batch(name, batch, kind, Path(folder)))
            work = flops({"model": name, "batch": file})["flops"]
            for compiled in (False, True):
                makers = {"cliploom": our_step}
                if kind == "full" and importlib.util.find_spec("open_clip"):
                    makers["open_clip"] = their_step
                for who, make in makers.items():
                    seconds, memory = timed(make(name, file, compiled))
                    what = f"{name}, batch {batch}, {'77-token' if kind == 'full' else '12-word'} captions"
                    rows.append(
                        {
                            "what": what,
                            "who": who,
                            "compiled": compiled,
                            "samples/s": batch / seconds,
                            "MFU": work / seconds / matmul_rate(),
                            "peak GiB": memory / 2**30,
                        }
                    )
                    print(rows[-1], flush=True)
    return rows


def our_step(name: str, file: str, compiled: bool) -> Step:
    """Forward, loss and backward of bf16 weights."""
    pixels, tokens = (part.cuda() for part in load_batch(file))
    model = models.create(models.preset(name), seed=0).to("cuda", torch.bfloat16)
    if compiled:
        models.compile_blocks(model)
    network, ranks = Network(model), Ranks([len(pixels)])
    network.device = torch.device("cuda")

    def work() -> None:
        model.zero_grad()
        micro = MicroBatch(pixels, tokens.int())
        loss_and_gradients(network, [micro], ranks, BUCKETS, contrastive, lambda _: True)

    return work


def their_step(name: str, file: str, compiled: bool) -> Step:
    """Forward, loss and backward of open_clip's model under autocast."""
    import open_clip

    pixels, tokens = (part.cuda() for part in load_batch(file))
    model = open_clip.create_model(name, precision="fp32", force_quick_gelu=True).cuda().train()
    criterion = open_clip.loss.ClipLoss()
    run = torch.compile(model) if compiled else model

    def work() -> None:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            criterion(*run(models.normalize_pixels(pixels, torch.float32), tokens)).backward()

    return work


def timed(step: Step) -> tuple[float, int]:
    """Seconds of a step in a run of several, and the peak of allocated bytes."""
    for _ in range(3):
        step()
    torch.cuda.reset_peak_memory_stats()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(ROUNDS):
        step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / ROUNDS, torch.cuda.max_memory_allocated()


def matmul_rate() -> float:
    """FLOP/s of a large bf16 matrix product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, b, out=out)

    seconds, _ = timed(product)
    return 2 * 8192**3 / seconds


if __name__ == "__main__":
    main(sys.argv[1:])
