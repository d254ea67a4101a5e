"""What a run would take: `python -m cliploom.planning --model ViT-L-14 --gpus 8 64 1024`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, fields

from rich.console import Console
from rich.table import Table

from cliploom.errors import InputError
from cliploom.models.presets import preset
from cliploom.planning.plan import Assumptions, Plan, plan
from cliploom.planning.step import GPUS, Job, batch_bytes, collective_bytes

PAPER_SAMPLES = 12.8e9  # 400 million pairs, 32 times
PAPER_BATCH = 32_768


def main(argv: list[str] | None = None) -> int:
    """Print the plans and what they assume; 2 where the input is wrong."""
    options = _parser().parse_args(argv)
    assumed = Assumptions(**{field.name: getattr(options, field.name) for field in fields(Assumptions)})
    try:
        model = preset(options.model)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plans = []
    for gpus in options.gpus:
        parameters = _parameters(options.model)
        how = (options.zero_stage, options.passes, options.micro_batches)
        job = Job.of(model, parameters, gpus, options.batch, *how)
        plans.append(plan(job, GPUS[options.gpu], options.samples, assumed))
    console = Console()
    console.print(_title(plans[0], options))
    console.print(_table(plans))
    console.print("assumed  " + ", ".join(f"{name} {value:g}" for name, value in asdict(assumed).items()), style="dim")
    console.print(
        f"         {options.passes} passes, {options.micro_batches} micro-batches, forward_flops "
        f"{plans[0].job.forward_flops / 1e9:.1f} G, peak {GPUS[options.gpu].peak / 1e12:.0f} T; throughput of models "
        "that the formula was not fitted to came within 22 %, prices are examples",
        style="dim",
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-L-14", help="a preset")
    parser.add_argument("--gpus", type=_count, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--gpu", choices=sorted(GPUS), default="A100")
    parser.add_argument("--batch", type=_count, default=PAPER_BATCH, help="samples a step")
    parser.add_argument("--samples", type=float, default=PAPER_SAMPLES, help="of the whole run")
    parser.add_argument("--zero-stage", type=int, choices=range(4), default=1)
    parser.add_argument("--passes", type=_count, default=4, help="3, or 4 where activations are computed again")
    parser.add_argument("--micro-batches", type=_count, default=1, help="that a GPU's part of the batch is cut into")
    for field in fields(Assumptions):
        kind = _count if isinstance(field.default, int) else float
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, dest=field.name, type=kind, default=field.default)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def _parameters(name: str) -> float:
    """Of a preset, counted without making its weights."""
    import torch

    from cliploom.models.clip import CLIP

    with torch.device("meta"):
        return float(sum(weight.numel() for weight in CLIP(preset(name)).parameters()))


def _title(found: Plan, options: argparse.Namespace) -> str:
    return (
        f"{options.model} on {options.gpu}s, batch {options.batch:,}, {options.samples / 1e9:g} G samples, ZeRO "
        f"{options.zero_stage}: {batch_bytes(found.job) / 1e9:.1f} GB a batch, "
        f"{found.checkpoint_bytes / 1e9:.1f} GB a checkpoint"
    )


def _table(plans: list[Plan]) -> Table:
    """A row for each number of GPUs; `sent` is gigabytes of a GPU in a step, `ingest` nodes."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for word in ("GPUs", "samples/s", "step", "mostly", "sent", "ingest", "save", "goodput", "days", "cost"):
        table.add_column(word, justify="left" if word == "mostly" else "right", no_wrap=True)
    for found in plans:
        table.add_row(
            f"{found.job.gpus:,}",
            f"{found.samples_per_second:,.0f}",
            f"{found.step.seconds:.2f} s",
            found.bottleneck,
            f"{sum(collective_bytes(found.job).values()) / 1e9:.1f} GB",
            f"{found.ingest_nodes}",
            f"{found.interval / 60:.0f} min",
            f"{found.goodput:.1%}",
            f"{found.days:,.1f}",
            f"{found.cost:,.0f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
