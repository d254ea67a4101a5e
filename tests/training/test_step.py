"""The step, cut in every way, against the oracle that knows no cuts."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import oracle
import processes
from cliploom import models, objectives
from cliploom.data.plan import micro_batches, rank_span
from cliploom.objectives import Ranks
from cliploom.settings.training import Train
from cliploom.training.engine import Engine
from cliploom.training.step import MicroBatch, StepResult, loss_and_gradients, text_buckets

MODEL = "ViT-mu-8-32"
BATCH = 13  # divides by nothing that it is cut into


class Plain:
    """A network without DeepSpeed: autograd alone, gradients summed over ranks and divided by their number."""

    device = torch.device("cpu")

    def __init__(self, dtype: torch.dtype, model: nn.Module) -> None:
        self.dtype = dtype
        self.model = model.to(dtype)

    def forward(self, *inputs: object) -> tuple[Tensor, ...]:
        output: tuple[Tensor, ...] = self.model(*inputs)
        return output

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()

    def gradients(self) -> dict[str, Tensor]:
        found = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        if dist.is_initialized():
            for gradient in found.values():
                dist.all_reduce(gradient)
                gradient /= dist.get_world_size()
        return found


def make_batch() -> tuple[Tensor, Tensor]:
    """Pixels, and captions of unequal lengths, one of them of full length."""
    generator = torch.Generator().manual_seed(11)
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)
    tokens = torch.zeros(BATCH, 77, dtype=torch.int32)
    for row, length in enumerate([77, *torch.randint(2, 20, (BATCH - 1,), generator=generator).tolist()]):
        tokens[row, : length - 1] = torch.randint(1, 49000, (length - 1,), generator=generator)
        tokens[row, length - 1] = 49407
    return pixels, tokens


def cut(pixels: Tensor, tokens: Tensor, world: int, rank: int, micro: int) -> tuple[list[MicroBatch], Ranks]:
    """A rank's micro-batches by the plan's rule; the padding is noise, so that it must not count."""
    spans = [rank_span(BATCH, world, r) for r in range(world)]
    count, rows = micro_batches(BATCH, world, micro)
    start, stop = spans[rank]
    padding = [(start + i) % BATCH for i in range(count * rows - (stop - start))]
    chosen = torch.tensor([*range(start, stop), *padding])
    parts = zip(pixels[chosen].split(rows), tokens[chosen].split(rows), strict=True)
    return [MicroBatch(*part) for part in parts], Ranks([b - a for a, b in spans], rank)


def make_network(objective: str) -> nn.Module:
    config = models.preset(MODEL)
    ngrams = objectives.count_ngrams([make_batch()[1]], config.vocab_size, most=600, min_count=1)
    return objectives.create(objective, config, 3, ngrams)


def take_gradients(network: Any, objective: str, micros: list[MicroBatch], ranks: Ranks, buckets: int) -> StepResult:
    return loss_and_gradients(network, micros, ranks, buckets, objectives.objective(objective).loss, lambda _: True)


def oracle_gradients(objective: str) -> tuple[float, dict[str, Tensor]]:
    pixels, tokens = make_batch()
    trainer = oracle.Trainer(make_network(objective), Train(), steps=1, warmup_steps=0, objective=objective)
    return trainer.gradients(models.normalize_pixels(pixels, torch.float64), tokens)


def plain_gradients(objective: str, dtype: torch.dtype, micro: int, buckets: int) -> tuple[float, dict[str, Tensor]]:
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    micros, ranks = cut(*make_batch(), world, rank, micro)
    network = Plain(dtype, make_network(objective))
    result = take_gradients(network, objective, micros, ranks, buckets)
    return float(result.loss), network.gradients()


def engine_gradients(objective: str, stage: int, micro: int) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    """Loss, gradients and weights of a DeepSpeed engine in fp32."""
    import deepspeed.utils

    settings = Train(zero_stage=stage, precision="fp32", max_gradient_norm=None)
    engine = Engine(make_network(objective), settings, smallest_partitioned=0)
    micros, ranks = cut(*make_batch(), dist.get_world_size(), dist.get_rank(), micro)
    result = take_gradients(engine, objective, micros, ranks, 2)
    gradients = {name: deepspeed.utils.safe_get_full_grad(p).clone() for p, name in engine._names.items()}
    if stage == 3:
        assert all(p.numel() == 0 for p in engine._names), "stage 3 must have partitioned every parameter"
    return float(result.loss), gradients, engine.weights()


def all_plain(cases: list[tuple[str, torch.dtype, int, int]]) -> list[Any]:
    return [plain_gradients(*case) for case in cases]


def all_engines(cases: list[tuple[str, int, int]]) -> list[Any]:
    return [engine_gradients(*case) for case in cases]


def assert_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        size = max(gradient.norm(), 1e-6 * whole)  # of a key's bias it is 0, which rounding makes something else
        error = (found[name].double().reshape(gradient.shape) - gradient).norm()
        assert error <= tolerance * size, f"{name}: error {error:.2e} of {size:.2e}"


NAMES = list(objectives.OBJECTIVES)
CUTS = list(itertools.product(NAMES, [torch.float64, torch.float32], [1, 4, 13], [1, 3]))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


@functools.cache
def expected(objective: str) -> tuple[float, dict[str, Tensor]]:
    return oracle_gradients(objective)


def check_plain(results: list[Any]) -> None:
    for (name, dtype, _, _), (found_loss, found) in zip(CUTS, results, strict=True):
        loss, gradients = expected(name)
        assert math.isclose(found_loss, loss, rel_tol=TOLERANCE[dtype]), name
        assert_gradients(found, gradients, TOLERANCE[dtype])


def test_one_process_is_the_oracle_for_any_micro_batch_and_bucket() -> None:
    check_plain(all_plain(CUTS))


@pytest.mark.integration
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_are_the_oracle(world: int) -> None:
    for results in processes.run(world, all_plain, CUTS):
        check_plain(results)


@pytest.mark.integration
@pytest.mark.parametrize("world", [1, 2])
def test_deepspeed_at_every_stage_is_the_oracle(world: int) -> None:
    cases = [("contrastive", stage, micro) for stage in (0, 1, 2, 3) for micro in (4, 13)]
    cases += [(name, stage, 4) for name in NAMES if name != "contrastive" for stage in (1, 3)]
    for results in processes.run(world, all_engines, cases):
        for (name, _, _), (found_loss, found, _) in zip(cases, results, strict=True):
            loss, gradients = expected(name)
            assert math.isclose(found_loss, loss, rel_tol=1e-4), name
            assert_gradients(found, gradients, 1e-4)


@given(st.lists(st.integers(1, 77), min_size=1, max_size=20), st.integers(1, 9))
def test_buckets_hold_each_caption_whole_and_restore_their_order(lengths: list[int], count: int) -> None:
    tokens = torch.zeros(len(lengths), 77, dtype=torch.int64)
    for row, length in enumerate(lengths):
        tokens[row, : length - 1] = row + 1
        tokens[row, length - 1] = 49407
    buckets, restore = text_buckets(tokens, count)
    assert len(buckets) == min(count, len(lengths))
    padded = [torch.nn.functional.pad(bucket, (0, 77 - bucket.shape[1])) for bucket in buckets]
    assert torch.equal(torch.cat(padded)[restore], tokens)
    assert [b.shape[1] for b in buckets] == sorted(b.shape[1] for b in buckets)
