"""The engine's state: exact within a setting, portable between numbers of workers and ZeRO stages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_step import MODEL, cut, make_batch, take_gradients
from torch import Tensor

import oracle
import processes
from cliploom import models, objectives
from cliploom.objectives import GlobalLoss, Ranks
from cliploom.settings.training import Train
from cliploom.training.checkpoint import merge
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
        losses.append(float(take_gradients(engine, "contrastive", micros, ranks, 2).loss))
        engine.step(SETTINGS["learning_rate"])
    return losses


def everything(engine: Engine) -> dict[str, Tensor]:
    """The whole state, of all workers' slices; no element is in two of them."""
    parts: list[dict[str, Tensor]] = [{}] * dist.get_world_size()
    dist.all_gather_object(parts, engine.snapshot())
    return merge(parts)


def train_and_save(cases: list[tuple[int, str]]) -> list[Any]:
    """Of each case: state after 3 steps, losses of the 3 and of 2 more, the state after those."""
    results = []
    for case in cases:
        engine = make_engine(*case)
        losses, saved = take_steps(engine, 3), everything(engine)
        results.append((saved, losses, take_steps(engine, 2), everything(engine)))
    return results


def load_and_train(pairs: list[tuple[tuple[int, str], dict[str, Tensor]]]) -> list[Any]:
    """Of each case with a state: whether it came back whole, the losses of 2 more steps and the state after those."""
    results = []
    for case, state in pairs:
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
    pairs = list(itertools.product(cases, states))
    for world in (1, 2):
        for same, losses, final in processes.run(world, load_and_train, pairs)[0]:
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
        pairs = [(case, result[0]) for case, result in zip(cases, trained, strict=True)]
        resumed = processes.run(2, load_and_train, pairs)[0]
        for (_, _, losses, final), (_, found_losses, found_final) in zip(trained, resumed, strict=True):
            assert found_losses == losses
            assert all(torch.equal(final[key], found_final[key]) for key in final)


def test_bf16_keeps_fp32_masters_at_every_stage() -> None:
    cases = [(stage, "bf16") for stage in STAGES]
    exact = oracle_losses(5)
    for saved, losses, later, _ in processes.run(1, train_and_save, cases)[0]:
        weights = [value for key, value in saved.items() if key.startswith("weight/")]
        assert any((value.bfloat16().float() != value).any() for value in weights), "masters are rounded to bf16"
        assert [*losses, *later] == pytest.approx(exact, rel=0.02)


def train_locked(cases: list[tuple[int, str]]) -> list[Any]:
    return [train_one_locked(*case) for case in cases]


def train_one_locked(stage: int, precision: str) -> tuple[Any, Any, Any, bool]:
    """Weights before and after 2 steps with a locked image tower, the state then, and whether it loads."""
    settings = Train(zero_stage=stage, precision=precision, layer_decay=0.7, **SETTINGS)
    engines = []
    for _ in range(2):
        model = models.create(models.preset(MODEL), seed=3)
        model.lock_image()
        engines.append(Engine(model, settings, smallest_partitioned=0))
    before = engines[0].weights()
    take_steps(engines[0], 2)
    state = everything(engines[0])
    engines[1].load_state(state, 2)
    loaded = everything(engines[1])
    same = loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)
    return before, engines[0].weights(), state, same


def test_a_locked_tower_stays_bit_for_bit_and_is_part_of_the_state() -> None:
    start = models.create(models.preset(MODEL), seed=3).state_dict()
    cases = [(0, "fp32"), (1, "bf16"), (2, "fp32"), (3, "bf16")]
    for before, after, state, same in processes.run(2, train_locked, cases)[0]:
        assert same
        assert after.keys() == start.keys()
        for name, value in start.items():
            assert torch.equal(before[name].reshape(value.shape), value), "masters are the fp32 weights given"
            assert torch.equal(after[name].reshape(value.shape), value) == name.startswith("visual."), name
            assert f"weight/{name}" in state
            assert (f"exp_avg/{name}" in state) == (not name.startswith("visual."))


def layer_steps(decays: list[float]) -> list[dict[str, Tensor]]:
    return [layer_step(decay) for decay in decays]


def layer_step(decay: float) -> dict[str, Tensor]:
    """How far one step moves each parameter."""
    settings = Train(zero_stage=1, precision="fp32", layer_decay=decay, weight_decay=0.0, **SETTINGS)
    engine = Engine(models.create(models.preset(MODEL), seed=3), settings)
    before = engine.weights()
    take_steps(engine, 1)
    return {name: (value - before[name]).abs().max() for name, value in engine.weights().items()}


def test_layer_decay_scales_the_steps() -> None:
    [[whole, decayed]] = processes.run(1, layer_steps, [1.0, 0.5])
    for name, factor in (
        ("visual.conv1.weight", 8),
        ("visual.transformer.resblocks.1.ln_2.weight", 2),
        ("visual.proj", 1),
    ):
        assert float(whole[name] / decayed[name]) == pytest.approx(factor, rel=0.01)


def exact_scales(stages: list[int]) -> list[tuple[float, float]]:
    return [exact_scale(stage) for stage in stages]


def exact_scale(stage: int) -> tuple[float, float]:
    """The logit scale that the loss gets in bf16, and that of the fp32 master."""
    engine = make_engine(stage, "bf16")
    take_steps(engine, 3)
    micros, ranks = cut(*make_batch(), dist.get_world_size(), dist.get_rank(), 4)
    found = take_gradients(engine, "contrastive", micros, ranks, 2).shared
    return float(found), float(engine.weights()["logit_scale"].exp())


def test_the_logit_scale_is_the_fp32_masters() -> None:
    for found, exact in processes.run(2, exact_scales, [1, 3])[0]:
        assert found == pytest.approx(exact, rel=1e-6)
        assert exact != pytest.approx(1 / 0.07, rel=1e-4)


def broken_contrastive(rows: Sequence[Tensor], shared: Tensor, ranks: Ranks) -> GlobalLoss:
    """A finite loss whose gradient is not, on the last rank alone."""
    found = objectives.contrastive(rows, shared, ranks)
    if dist.get_rank() == dist.get_world_size() - 1:
        found.rows[0][0, 0] = torch.inf
    return found


def skip_a_step(cases: list[tuple[int, str]]) -> list[tuple[float, bool, bool]]:
    """Of each case: the norm of a broken step, whether it changed nothing, and whether nothing of it is left after."""
    results = []
    for case in cases:
        engines = [make_engine(*case) for _ in range(2)]
        for engine in engines:
            take_steps(engine, 1)
        micros, ranks = cut(*make_batch(), dist.get_world_size(), dist.get_rank(), 4)
        before = everything(engines[0])
        loss_and_gradients(engines[0], micros, ranks, 2, broken_contrastive, lambda _: True)
        norm = engines[0].step(SETTINGS["learning_rate"])
        after = everything(engines[0])
        same = all(torch.equal(before[key], after[key]) for key in before)
        for engine in engines:
            take_steps(engine, 2)
        ends = [everything(engine) for engine in engines]
        results.append((norm, same, all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])))
    return results


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    cases = list(itertools.product(STAGES, ("fp32", "bf16")))
    for found in processes.run(2, skip_a_step, cases):
        for case, (norm, same, forgotten) in zip(cases, found, strict=True):
            assert not math.isfinite(norm), case
            assert same, case
            assert forgotten, case
