"""The engine's state: exact within a setting, portable between numbers of workers and ZeRO stages."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_step import BATCH, MODEL, cut, make_batch
from torch import Tensor

import oracle
import processes
from cliploom import models
from cliploom.config import Train
from cliploom.training.engine import Engine
from cliploom.training.step import loss_and_gradients

pytestmark = pytest.mark.integration
STAGES = (0, 1, 2, 3)
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "max_gradient_norm": 0.5}


def make_engine(stage: int, precision: str) -> Engine:
    settings = Train(zero_stage=stage, precision=precision, **SETTINGS)
    return Engine(models.create(models.preset(MODEL), seed=3), settings, smallest_partitioned=0)


def take_steps(engine: Engine, count: int) -> list[float]:
    micros, ranks = cut(*make_batch(), dist.get_world_size(), dist.get_rank(), 4)
    losses = []
    for _ in range(count):
        losses.append(float(loss_and_gradients(engine, micros, ranks, 2, lambda _: True).loss))
        engine.step(SETTINGS["learning_rate"])
    return losses


def everything(engine: Engine) -> dict[str, Tensor]:
    return engine.state(lambda _: True)


def train_and_save(cases: list[tuple[int, str]]) -> list[Any]:
    """Of each case: state after 3 steps, losses of the 3 and of 2 more, the state after those."""
    results = []
    for case in cases:
        engine = make_engine(*case)
        losses, saved = take_steps(engine, 3), everything(engine)
        results.append((saved, losses, take_steps(engine, 2), everything(engine)))
    return results


def load_and_train(cases: list[tuple[int, str]], states: list[dict[str, Tensor]]) -> list[Any]:
    """Of each case and state: whether it came back whole, the losses of 2 more steps and the state after those."""
    results = []
    for case, state in itertools.product(cases, states):
        engine = make_engine(*case)
        engine.load_state(state, 3)
        loaded = everything(engine)
        same = all(torch.equal(loaded[key], state[key]) for key in state)
        results.append((same, take_steps(engine, 2), everything(engine)))
    return results


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def oracle_losses(count: int) -> list[float]:
    model = models.create(models.preset(MODEL), seed=3)
    # A constant rate, as take_steps has it: the warm-up never ends, and starts at its end.
    trainer = oracle.Trainer(model, Train(**SETTINGS), steps=1, warmup_steps=0)
    pixels, tokens = make_batch()
    images = models.normalize_pixels(pixels, torch.float64)
    losses = []
    for _ in range(count):
        trainer.step = 0
        losses.append(trainer.train(images, tokens))
    return losses


def test_state_moves_between_worker_counts_and_stages() -> None:
    cases = [(stage, "fp32") for stage in STAGES]
    expected = oracle_losses(5)
    trained = {world: processes.run(world, train_and_save, cases)[0] for world in (1, 2)}
    spread = max(largest_difference(a[3], b[3]) for a, b in itertools.combinations([*trained[1], *trained[2]], 2))
    assert spread < 1e-4
    states = [result[0] for world in (1, 2) for result in trained[world]]
    for world in (1, 2):
        for same, losses, final in processes.run(world, load_and_train, cases, states)[0]:
            assert same, "the state must come back bit for bit"
            assert losses == pytest.approx(expected[3:], rel=1e-5)
            assert largest_difference(final, trained[1][0][3]) <= 2 * spread
    for world in (1, 2):
        for _, losses, later, _ in trained[world]:
            assert [*losses, *later] == pytest.approx(expected, rel=1e-5)


def test_resuming_at_equal_worker_count_and_stage_is_bitwise() -> None:
    for precision in ("fp32", "bf16"):
        cases = [(stage, precision) for stage in STAGES]
        trained = processes.run(2, train_and_save, cases)[0]
        resumed = processes.run(2, load_and_train, cases, [result[0] for result in trained])[0]
        for number, (_, _, losses, final) in enumerate(trained):
            _, found_losses, found_final = resumed[number * len(cases) + number]
            assert found_losses == losses
            assert all(torch.equal(final[key], found_final[key]) for key in final)


def test_bf16_keeps_fp32_masters_at_every_stage() -> None:
    cases = [(stage, "bf16") for stage in STAGES]
    exact = oracle_losses(5)
    for saved, losses, later, _ in processes.run(1, train_and_save, cases)[0]:
        weights = [value for key, value in saved.items() if key.startswith("weight/")]
        assert any((value.bfloat16().float() != value).any() for value in weights), "masters are rounded to bf16"
        assert [*losses, *later] == pytest.approx(exact, rel=0.02)
    assert BATCH == 13
