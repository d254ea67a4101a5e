"""BatchNorm over groups of plan positions: the same however a batch is cut, and the oracle's."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_engine import everything
from test_step import Plain, assert_gradients, take_gradients

import oracle
import processes
from cliploom import models
from cliploom.models.norm import move_statistics, norms
from cliploom.objectives import Ranks
from cliploom.settings.training import Train
from cliploom.training.engine import Engine
from cliploom.training.step import MicroBatch

MODEL, BATCH, GROUP = "RN14-mu-64", 16, 4


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (BATCH, 3, 64, 64), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(1, 49000, (BATCH, 9), dtype=torch.int32, generator=generator)
    tokens[:, -1] = 49407
    return pixels, tokens


def make_model() -> models.CLIP:
    """With gains of 1 throughout: where the last of a block is 0, as at the start, nothing reaches the ones before."""
    model = models.create(models.preset(MODEL), seed=3)
    for norm in norms(model):
        torch.nn.init.ones_(norm.weight)
    return model


def own_part(micro: int) -> tuple[list[MicroBatch], Ranks]:
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    rows = BATCH // world
    pixels, tokens = (whole[rank * rows : (rank + 1) * rows] for whole in make_batch())
    micros = [MicroBatch(*part) for part in zip(pixels.split(micro), tokens.split(micro), strict=True)]
    return micros, Ranks([rows] * world, rank)


def plain_results(cuts: list[int]) -> list[Any]:
    """Of each micro-batch size: loss, gradients, and the running statistics after the step."""
    results = []
    for micro in cuts:
        network = Plain(torch.float64, make_model())
        for norm in norms(network.model):
            norm.group_size = GROUP
        result = take_gradients(network, "contrastive", *own_part(micro), 1)
        move_statistics(norms(network.model))
        results.append((float(result.loss), network.gradients(), dict(network.model.named_buffers())))
    return results


def engine_state(settings: dict[str, Any], steps: int) -> dict[str, torch.Tensor]:
    engine = Engine(models.create(models.preset(MODEL), seed=3), Train(norm_batch_size=GROUP, **settings))
    for _ in range(steps):
        take_gradients(engine, "contrastive", *own_part(GROUP), 1)
        engine.step(1e-3)
    state = everything(engine)
    other = Engine(models.create(models.preset(MODEL), seed=4), Train(norm_batch_size=GROUP, **settings))
    other.load_state(state, steps)
    loaded = everything(other)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    return state


def check(results: list[Any]) -> None:
    pixels, tokens = make_batch()
    model = make_model()
    trainer = oracle.Trainer(model, Train(), steps=1, warmup_steps=0)
    loss, gradients = trainer.gradients(models.normalize_pixels(pixels, torch.float64), tokens, GROUP)
    for found_loss, found, buffers in results:
        assert math.isclose(found_loss, loss, rel_tol=1e-10)
        assert_gradients(found, gradients, 1e-9)
        for name, buffer in buffers.items():
            torch.testing.assert_close(buffer, results[0][2][name], rtol=1e-12, atol=1e-12)
    assert results[0][2]["visual.bn1.num_batches_tracked"] == 1


def test_one_process_is_the_oracle_for_any_micro_batch() -> None:
    check(plain_results([4, 8, 16]))


def test_running_statistics_are_the_mean_over_groups() -> None:
    [(_, _, buffers)] = plain_results([8])
    images = models.normalize_pixels(make_batch()[0], torch.float64)
    first = make_model().double().visual.conv1(images)
    means = torch.stack([part.mean((0, 2, 3)) for part in first.split(GROUP)]).mean(0)
    variances = torch.stack([part.var((0, 2, 3)) for part in first.split(GROUP)]).mean(0)
    torch.testing.assert_close(buffers["visual.bn1.running_mean"], 0.1 * means, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(buffers["visual.bn1.running_var"], 0.9 + 0.1 * variances, rtol=1e-9, atol=1e-12)


def test_rows_that_make_no_whole_group_are_refused() -> None:
    network = Plain(torch.float64, make_model())
    for norm in norms(network.model):
        norm.group_size = 5
    with pytest.raises(ValueError, match="16 rows are no multiple of the group size 5"):
        take_gradients(network, "contrastive", *own_part(16), 1)


@pytest.mark.integration
def test_two_processes_are_the_oracle() -> None:
    for results in processes.run(2, plain_results, [4, 8]):
        check(results)


@pytest.mark.integration
def test_statistics_are_part_of_the_engines_state() -> None:
    for stage, precision in itertools.product((1, 2), ("fp32", "bf16")):
        first, second = processes.run(2, engine_state, {"zero_stage": stage, "precision": precision}, 2)
        moved = first["buffer/visual.layer1.0.bn1.running_mean"]
        assert moved.dtype == torch.float32
        assert moved.abs().max() > 0
        assert all(torch.equal(first[key], second[key]) for key in first)
