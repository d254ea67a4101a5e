"""`make bench`: training step, tokenizer and loss beside open_clip's, on this machine, in one run.

Each side is timed in turn, best of several rounds, with the same threads. Ratios are open_clip's seconds over ours.
Options: a preset's name (default ViT-B-32), and `--batch N`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference_models import random_open_clip_model
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cliploom import models
from cliploom.data.tokenizer import Tokenizer
from cliploom.objectives import Ranks, contrastive
from cliploom.training.step import MicroBatch, loss_and_gradients
from reference import import_open_clip

ROUNDS = 3
SENTENCE = "a photo of the small red dog that runs over green grass near an old stone house by the river in summer"
WORDS = SENTENCE.split()


def main(argv: list[str]) -> None:
    """Measure, and print a table; with --json, one line of JSON as well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    rows = [*steps(options.model, options.batch), tokenizer(), loss()]
    table = Table(
        title=f"{options.model}, batch {options.batch}, {torch.get_num_threads()} threads", title_justify="left"
    )
    for column in ("what", "open_clip", "cliploom", "ratio", "bound"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("what", "open_clip", "cliploom", "ratio", "bound")))
    Console(width=110).print(table)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}))


def captions(count: int, seed: int = 0) -> list[str]:
    """Captions of natural length: 5 to 19 words, 12 in the mean."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(5, 20))) for _ in range(count)]


def steps(name: str, batch: int) -> list[dict[str, Any]]:
    """Forward and backward of a batch: natural captions and full ones, fp32 and bf16."""
    rows: list[dict[str, Any]] = []
    config = models.preset(name)
    pixels = torch.randint(0, 256, (batch, 3, config.image_size, config.image_size), dtype=torch.uint8)
    natural = Tokenizer()(captions(batch))
    full = torch.full((batch, 77), 320)
    full[:, 0], full[:, -1] = 49406, 49407
    for precision in (torch.float32, torch.bfloat16):
        ours = models.create(config, seed=0)
        theirs = random_open_clip_model(config).train()
        peak = matmul_rate(precision)
        for kind, tokens in (("natural captions", natural), ("77-token captions", full)):
            fast = best(our_step(ours.to(precision), pixels, tokens.int()))
            slow = best(their_step(theirs, pixels, tokens, precision))
            flops = 3 * forward_flops(ours, pixels, tokens)  # backward is twice the forward
            row(rows, f"step, {str(precision).removeprefix('torch.')}, {kind}", slow, fast, batch, "samples/s")
            rows[-1]["bound"] = f"{flops / fast / peak:.0%} of a matrix product's rate"
    return rows


def our_step(model: models.CLIP, pixels: Tensor, tokens: Tensor) -> Callable[[], Any]:
    class Network:
        device = torch.device("cpu")
        dtype = model.text_projection.dtype

        def forward(self, *inputs: Any) -> Any:
            return model(*inputs)

        def backward(self, loss: Tensor, last: bool) -> None:
            loss.backward()

    def step() -> None:
        model.zero_grad()
        loss_and_gradients(Network(), [MicroBatch(pixels, tokens)], Ranks([len(pixels)]), 2, lambda _: True)

    return step


def their_step(model: nn.Module, pixels: Tensor, tokens: Tensor, precision: torch.dtype) -> Callable[[], Any]:
    open_clip = import_open_clip()
    criterion = open_clip.ClipLoss()

    def step() -> None:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            images = models.normalize_pixels(pixels, torch.float32)
            criterion(*model(images, tokens)).backward()

    return step


def forward_flops(model: models.CLIP, pixels: Tensor, tokens: Tensor) -> int:
    """Counted by torch, of the work that counts: captions cut after their ends."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_image(models.normalize_pixels(pixels, model.text_projection.dtype))
        model.encode_text(tokens)
    return int(counter.get_total_flops())


def matmul_rate(precision: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    a, b = (torch.randn(2048, 2048).to(precision) for _ in range(2))
    return 2 * 2048**3 / best(lambda: a @ b)


def tokenizer() -> dict[str, Any]:
    """Captions a second, both warm: every word seen before."""
    open_clip = import_open_clip()
    texts = captions(4000, seed=1)
    ours, theirs = Tokenizer(), open_clip.tokenizer.SimpleTokenizer()
    rows: list[dict[str, Any]] = []
    row(rows, "tokenizer, 12 words", best(lambda: theirs(texts)), best(lambda: ours(texts)), len(texts), "captions/s")
    return rows[0]


def loss(batch: int = 8192, width: int = 512) -> dict[str, Any]:
    """Loss with gradients; extra peak memory of each in a process of its own."""
    open_clip = import_open_clip()
    image, text = (nn.functional.normalize(torch.randn(batch, width), dim=-1) for _ in range(2))
    scale = torch.tensor(14.3)
    criterion = open_clip.ClipLoss()

    def theirs() -> None:
        leaves = [t.clone().requires_grad_() for t in (image, text)]
        criterion(*leaves, scale).backward()

    slow, fast = best(theirs), best(lambda: contrastive(image, text, scale, Ranks([batch])))
    rows: list[dict[str, Any]] = []
    row(rows, f"loss, N={batch}, d={width}", slow, fast, batch, "samples/s")
    rows[0]["bound"] = "memory " + " against ".join(
        f"{peak_memory(which, batch, width):.0f}" for which in ("theirs", "ours")
    )
    rows[0]["bound"] += " MiB"
    return rows[0]


def peak_memory(which: str, batch: int, width: int) -> float:
    """MiB above what was held before, of one call in a fresh process."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; import model; model.one_loss({which!r}, {batch}, {width})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def one_loss(which: str, batch: int, width: int) -> None:
    """Print the growth of the peak, in MiB, that one loss with gradients causes."""
    open_clip = import_open_clip()
    image, text = (nn.functional.normalize(torch.randn(batch, width), dim=-1).requires_grad_() for _ in range(2))
    small = [t[:64].detach().clone().requires_grad_() for t in (image, text)]
    for features in (small, [image, text]):  # the small one loads the libraries
        before = high_water(reset=True)
        if which == "theirs":
            open_clip.ClipLoss()(*features, torch.tensor(14.3)).backward()
        else:
            own, other = (f.detach() for f in features)
            contrastive(own, other, torch.tensor(14.3), Ranks([len(own)]))
    print((high_water() - before) / 1024)


def high_water(reset: bool = False) -> int:
    """The most memory that this process has held, in KiB; since now where it is `reset` (Linux alone)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def row(rows: list[dict[str, Any]], what: str, slow: float, fast: float, count: int, unit: str) -> None:
    rates = {"open_clip": f"{count / slow:,.1f} {unit}", "cliploom": f"{count / fast:,.1f} {unit}"}
    rows.append({"what": what, **rates, "ratio": f"{slow / fast:.2f}", "bound": ""})


def best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of several rounds, after one that warms up."""
    work()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "commit": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": platform.processor(),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
