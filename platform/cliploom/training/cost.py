"""What a run will cost, before it starts: counted off the network on torch's meta device, where nothing is computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cliploom import objectives
from cliploom.config import Config
from cliploom.data.plan import WorkItem, micro_batches
from cliploom.data.reader import Reader
from cliploom.progress import duration
from cliploom.settings.training import Train
from cliploom.training.engine import bucket
from cliploom.training.network import lock
from cliploom.training.run import Run, workers_range
from cliploom.training.step import text_buckets

_FP32, _BF16 = 4, 2  # bytes
_MOST_ROWS = 32  # that activations and operations are counted of; both grow with the rows
_SAMPLE = 64  # captions whose lengths stand for all
_TIMES = 3  # a measured step is the fastest of so many


@dataclass(frozen=True)
class Cost:
    """What a run takes.

    Attributes:
        parameters: of the network.
        sample_flops: of training on one pair, the passes that several micro-batches need included.
        state_bytes: of weights, gradients and optimizer on one worker, by ZeRO stage.
        activation_bytes: that a worker holds for backward, of one micro-batch.
        checkpoint_bytes: of one checkpoint.
        steps: of the whole run.
        samples: of the whole run.
        workers: the fewest.
    """

    parameters: int
    sample_flops: float
    state_bytes: dict[int, float]
    activation_bytes: float
    checkpoint_bytes: int
    steps: int
    samples: int
    workers: int

    @property
    def flops(self) -> float:
        """Of the whole run."""
        return self.sample_flops * self.samples

    def hours(self, flops_per_second: float) -> float:
        """Of the whole run, at a worker's rate."""
        return self.flops / flops_per_second / self.workers / 3600

    def line(self, flops_per_second: float) -> str:
        """The most important of it in a line."""
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.samples:,} samples, {self.flops:.3g} FLOPs, "
            f"{duration(3600 * self.hours(flops_per_second))}"
        )

    def table(self, flops_per_second: float, source: str) -> str:
        """All of it, in words."""
        held = "\n".join(
            f"  ZeRO {stage}   {_gib(size + self.activation_bytes)} a worker: {_gib(size)} state, "
            f"{_gib(self.activation_bytes)} activations"
            for stage, size in self.state_bytes.items()
        )
        return (
            f"parameters   {self.parameters:,}\n"
            f"compute      {self.sample_flops:.4g} FLOPs a sample, {self.flops:.4g} in all\n"
            f"memory\n{held}\n"
            f"checkpoint   {_gib(self.checkpoint_bytes)}\n"
            f"steps        {self.steps:,} ({self.samples:,} samples) on {self.workers} workers\n"
            f"time         {duration(3600 * self.hours(flops_per_second))} at {flops_per_second:.3g} FLOP/s a worker "
            f"({source}), without start-up and waiting for data"
        )


def rate(config: Config, run: Run) -> tuple[float, str]:
    """FLOP/s of a worker, and where that comes from."""
    if stated := config.cost.flops_per_second:
        return stated, "as cost.flops_per_second states"
    return measure_rate(run), "measured here"


def estimate(run: Run) -> Cost:
    """Count what `run` takes.

    Raises:
        InputError: the captions, of which some are read for their lengths, can't be read.
    """
    train = run.config.train
    workers = workers_range(run.config)[0]
    count, rows = micro_batches(train.global_batch_size, workers, train.micro_batch_size)
    network = _network(run)
    tokens = _tokens(run, min(rows, _MOST_ROWS))
    forward, whole, held = _count(network, run, tokens)
    passes = whole + (forward if count > 1 else 0)  # the first pass, that makes rows without activations
    if train.activation_checkpointing:
        passes += forward
    parameters = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = parameters - trained
    buffers = sum(buffer.numel() for buffer in network.buffers())
    return Cost(
        parameters=parameters,
        sample_flops=passes / len(tokens),
        state_bytes={stage: _state_bytes(trained, frozen, stage, workers, train) for stage in range(4)},
        activation_bytes=held / len(tokens) * rows,
        checkpoint_bytes=_FP32 * (3 * trained + frozen + buffers),
        steps=run.steps,
        samples=run.steps * train.global_batch_size,
        workers=workers,
    )


def measure_rate(run: Run) -> float:
    """FLOP/s of this process: forward and backward of a few pairs, the fastest of several times."""
    tokens = _tokens(run, min(run.config.train.micro_batch_size, _MOST_ROWS))
    network = objectives.create(run.config.objective.name, run.model, 0, _table(run))
    lock(network, run.config.train.lock)
    _, flops, _ = _count(_network(run), run, tokens)
    best = min(_timed(lambda: _backward(network, run, tokens)) for _ in range(_TIMES))
    return flops / best


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size > 2**29 else f"{size / 2**20:.1f} MiB"


def _state_bytes(trained: int, frozen: int, stage: int, workers: int, train: Train) -> float:
    """Bytes of a worker's weights, gradients, master weights and moments; of a GPU's, those that are not offloaded.

    What is frozen has weights alone, and a copy in the host's memory. At stage 0 AdamW steps on the fp32 weights
    themselves; from stage 1 on on a flat master of its own part. Gradients are as wide as the weights, and from stage 2
    on each worker keeps its part alone. At stage 2 gradients stand whole until a bucket is full; stage 3 holds a bucket
    beside (on a CPU, pages of it that are never written take no memory).
    """
    part, on_gpu = trained / workers, train.gpus_per_worker > 0
    width = _BF16 if train.precision == "bf16" and stage else _FP32
    copied = 0 if on_gpu else frozen * _FP32
    weights = (trained + frozen) * width / (workers if stage == 3 else 1)
    if stage == 0:
        return weights + copied + trained * (_FP32 + 2 * _FP32)
    gathered = bucket(trained)
    gradients = {1: trained, 2: min(trained, part + gathered), 3: part + gathered}[stage] * width
    return weights + copied + gradients + (0 if train.offload and on_gpu else part * 3 * _FP32)


def _network(run: Run) -> nn.Module:
    """A network to count with, whose tensors have no content; but of captions, of which only words are predicted."""
    table = _table(run)
    with torch.device("cpu" if run.config.objective.name == "captioning" else "meta"):
        network = objectives.objective(run.config.objective.name).network(
            run.model, *([] if table is None else [table])
        )
    lock(network, run.config.train.lock)
    return network


def _table(run: Run) -> Tensor | None:
    from cliploom.training import ngrams

    return ngrams.read(run.config, run.model.vocab_size)


def _tokens(run: Run, rows: int) -> Tensor:
    """Tokens of so many captions, evenly from the shortest to the longest of the first that the run reads."""
    source = run.stream.source
    reader = Reader(source)
    assert reader.plan.samples
    batch = reader.read(WorkItem(0, 0, 0, 0, _SAMPLE, _SAMPLE))
    tokens = torch.from_numpy(batch.tokens)
    order = (tokens.argmax(-1)).argsort()
    return tokens[order[np.linspace(0, _SAMPLE - 1, rows).round().astype(int)]]


def _count(network: nn.Module, run: Run, tokens: Tensor) -> tuple[float, float, float]:
    """Operations of forward, of forward and backward, and bytes that are held between."""
    from torch.utils.flop_counter import FlopCounterMode

    held: dict[int, int] = {}
    weights = {p.untyped_storage()._cdata for p in network.parameters()}

    def keep(value: Tensor) -> Tensor:
        if (key := value.untyped_storage()._cdata) not in weights:
            held[key] = value.untyped_storage().nbytes()
        return value

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = _forward(network, run, tokens)
        forward = counter.get_total_flops()
        loss.backward()
    width = _BF16 / _FP32 if run.config.train.precision == "bf16" else 1.0
    return float(forward), float(counter.get_total_flops()), sum(held.values()) * width


def _forward(network: nn.Module, run: Run, tokens: Tensor) -> Tensor:
    size, device = run.model.image_size, next(network.parameters()).device
    buckets, restore = text_buckets(tokens, run.config.train.text_buckets)
    images = torch.zeros(len(tokens), 3, size, size, device=device)
    kept = run.kept_patches
    patches = None if kept is None else torch.arange(kept, device=device).expand(len(tokens), kept)
    output: tuple[Any, ...] = network(images, [bucket.to(device) for bucket in buckets], restore.to(device), patches)
    return sum(part.sum() for part in output)


def _backward(network: nn.Module, run: Run, tokens: Tensor) -> None:
    _forward(network, run, tokens).backward()


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
