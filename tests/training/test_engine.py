"""The engine's state: exact within a setting, portable between numbers of workers and ZeRO stages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import test_step
import torch
import torch.distributed as dist
from test_step import cut, take_gradients
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
STAGES, WORLDS = (0, 1, 2, 3), (1, 2)
VOCABULARY = 500  # a large table of embeddings would take most of the time
MODEL = replace(models.preset("ViT-mu-8-32"), vocab_size=VOCABULARY)
Case = tuple[int, str]  # stage, precision
CASES: list[Case] = list(itertools.product(STAGES, ("fp32", "bf16")))
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "max_gradient_norm": 0.5}


def make_model() -> models.CLIP:
    return models.create(MODEL, seed=3)


def make_engine(stage: int, precision: str) -> Engine:
    """With every parameter partitioned at stage 3."""
    settings = Train(zero_stage=stage, precision=precision, **SETTINGS)
    engine = Engine(make_model(), settings, smallest_partitioned=0)
    assert stage < 3 or all(parameter.numel() == 0 for parameter in engine._names)
    return engine


def make_batch() -> tuple[Tensor, Tensor]:
    """The step's, with words of the small vocabulary."""
    pixels, tokens = test_step.make_batch()
    small = torch.where(tokens > 0, tokens % (VOCABULARY - 1), 0)
    return pixels, torch.where(tokens == tokens.max(), VOCABULARY - 1, small)


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


class Trained(NamedTuple):
    """Of an engine: losses of 4 steps, the state after 3 and after 4."""

    losses: list[float]
    saved: dict[str, Tensor]
    final: dict[str, Tensor]


class Resumed(NamedTuple):
    """Of an engine that was given a state after 3 steps."""

    same: bool  # the state came back bit for bit
    loss: float  # of the fourth step
    final: dict[str, Tensor]


def train(cases: list[Case]) -> list[Trained]:
    return [train_one(make_engine(*case)) for case in cases]


def train_one(engine: Engine) -> Trained:
    losses, saved = take_steps(engine, 3), everything(engine)
    return Trained(losses + take_steps(engine, 1), saved, everything(engine))


def resume(cases: list[Case], states: list[dict[Case, dict[str, Tensor]]]) -> list[list[Resumed]]:
    """Of each case, what a new engine makes of its own state; in fp32 then of those of all stages and worlds."""
    found = []
    for case in cases:
        engine = make_engine(*case)
        others = [state for of_world in states for other, state in of_world.items() if other[1] == case[1] == "fp32"]
        found.append([resume_one(engine, state) for state in (states[dist.get_world_size() - 1][case], *others)])
    return found


def resume_one(engine: Engine, state: dict[str, Tensor]) -> Resumed:
    engine.load_state(state, 3)
    loaded = everything(engine)
    same = loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)
    [loss] = take_steps(engine, 1)
    return Resumed(same, loss, everything(engine))


@pytest.fixture(scope="module")
def trained() -> dict[int, dict[Case, Trained]]:
    """By number of workers, and stage and precision."""
    return {world: dict(zip(CASES, processes.run(world, train, CASES)[0], strict=True)) for world in WORLDS}


@pytest.fixture(scope="module")
def resumed(trained: dict[int, dict[Case, Trained]]) -> dict[int, dict[Case, list[Resumed]]]:
    """By number of workers, and stage and precision: from the state of its own, and from all of its precision."""
    states = [{case: found.saved for case, found in trained[world].items()} for world in WORLDS]
    return {world: dict(zip(CASES, processes.run(world, resume, CASES, states)[0], strict=True)) for world in WORLDS}


def differences(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    """The largest, by kind: weights and moments."""
    assert a.keys() == b.keys()
    found: dict[str, float] = {}
    for key in a:
        kind = key.split("/")[0]
        found[kind] = max(found.get(kind, 0.0), float((a[key] - b[key]).abs().max()))
    return found


def largest(found: Iterable[dict[str, float]]) -> dict[str, float]:
    rows = list(found)
    return {kind: max(row[kind] for row in rows) for kind in rows[0]}


def apart(found: dict[str, Tensor], others: list[dict[str, Tensor]]) -> dict[str, float]:
    """How far a state is from the nearest of others, by kind."""
    rows = [differences(found, other) for other in others]
    return {kind: min(row[kind] for row in rows) for kind in rows[0]}


def oracle_losses(count: int) -> list[float]:
    # A constant rate, as take_steps has it: the warm-up never ends, and starts at its end.
    trainer = oracle.Trainer(make_model(), Train(**SETTINGS), steps=1, warmup_steps=0)
    pixels, tokens = make_batch()
    images = models.normalize_pixels(pixels, torch.float64)
    losses = []
    for _ in range(count):
        trainer.step = 0
        losses.append(trainer.train(images, tokens))
    return losses


def test_state_moves_between_worker_counts_and_stages(
    trained: dict[int, dict[Case, Trained]], resumed: dict[int, dict[Case, list[Resumed]]]
) -> None:
    """From each of 4 stages x 2 worlds to each: bit for bit the same state, and a next step within the spread.

    The spread is what stages and worlds differ by that were never stopped. `pytest -rP` shows the figures.
    """
    whole = [trained[world][stage, "fp32"] for world in WORLDS for stage in STAGES]
    spread = largest(differences(a.final, b.final) for a, b in itertools.combinations(whole, 2))
    spread_loss = max(abs(a.losses[3] - b.losses[3]) for a, b in itertools.combinations(whole, 2))
    found = [one for world in WORLDS for stage in STAGES for one in resumed[world][stage, "fp32"][1:]]
    assert len(found) == len(whole) ** 2
    assert all(one.same for one in found)
    moved = largest(apart(one.final, [other.final for other in whole]) for one in found)
    moved_loss = max(min(abs(one.loss - other.losses[3]) for other in whole) for one in found)
    print(f"never stopped: {spread}, loss {spread_loss:.1e}; moved: {moved}, loss {moved_loss:.1e}")
    for kind, most in spread.items():
        assert moved[kind] <= most, kind
    assert moved_loss <= spread_loss
    assert max(spread.values()) < 1e-4
    exact = oracle_losses(4)
    for one in whole:
        assert one.losses == pytest.approx(exact, rel=1e-5)
    for again in found:
        assert again.loss == pytest.approx(exact[3], rel=1e-5)


def test_resuming_at_equal_worker_count_and_stage_is_bitwise(
    trained: dict[int, dict[Case, Trained]], resumed: dict[int, dict[Case, list[Resumed]]]
) -> None:
    for world, case in itertools.product(WORLDS, CASES):
        expected, found = trained[world][case], resumed[world][case][0]
        assert found.same
        assert found.loss == expected.losses[3]
        assert all(torch.equal(expected.final[key], found.final[key]) for key in expected.final)


def test_bf16_keeps_fp32_masters_at_every_stage(trained: dict[int, dict[Case, Trained]]) -> None:
    exact = oracle_losses(4)
    for stage in STAGES:
        found = trained[1][stage, "bf16"]
        weights = [value for key, value in found.saved.items() if key.startswith("weight/")]
        assert any((value.bfloat16().float() != value).any() for value in weights), "masters are rounded to bf16"
        assert found.losses == pytest.approx(exact, rel=0.02)


def make_locked(name: str) -> models.CLIP:
    """A model of random weights, its tower locked; BatchNorm's statistics are those of none of its data."""
    model = models.create(replace(models.preset(name), vocab_size=VOCABULARY, image_size=MODEL.image_size), seed=3)
    model.lock_image()
    return model


def train_locked(cases: list[tuple[str, int, str]]) -> list[Any]:
    return [train_one_locked(*case) for case in cases]


def train_one_locked(name: str, stage: int, precision: str) -> tuple[Any, Any, Any, bool]:
    """Weights before and after 2 steps with a locked image tower, the state then, and whether it loads."""
    settings = Train(zero_stage=stage, precision=precision, layer_decay=0.7, **SETTINGS)
    engines = []
    for _ in range(2):
        model = make_locked(name)
        engines.append(Engine(model, settings, smallest_partitioned=0))
    before = engines[0].weights()
    take_steps(engines[0], 2)
    state = everything(engines[0])
    engines[1].load_state(state, 2)
    loaded = everything(engines[1])
    same = loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)
    return before, engines[0].weights(), state, same


def test_a_locked_tower_stays_bit_for_bit_and_is_part_of_the_state() -> None:
    settings: list[Case] = [(0, "fp32"), (1, "bf16"), (2, "fp32"), (3, "bf16")]
    cases = [(name, *case) for name in ("ViT-mu-8-32", "RN14-mu-64") for case in settings]
    for (model, *_), (before, after, state, same) in zip(cases, processes.run(2, train_locked, cases)[0], strict=True):
        start = make_locked(model).state_dict()
        parameters = dict(make_locked(model).named_parameters())
        assert same
        assert after.keys() == start.keys()
        for name, value in start.items():
            assert torch.equal(before[name].reshape(value.shape), value), "masters are the fp32 weights given"
            assert torch.equal(after[name].reshape(value.shape), value) == name.startswith("visual."), name
            assert f"{'weight' if name in parameters else 'buffer'}/{name}" in state
            assert (f"exp_avg/{name}" in state) == (not name.startswith("visual."))


def snapshot_with_a_frozen_scalar() -> dict[str, Tensor]:
    model = make_model()
    model.logit_scale.requires_grad_(False)
    return Engine(model, Train(zero_stage=1, precision="fp32", **SETTINGS)).snapshot()


def test_parts_meet_in_any_order_where_there_are_more_workers_than_elements() -> None:
    """An empty slice has the name of the one that begins where it ends."""
    parts = processes.run(2, snapshot_with_a_frozen_scalar)
    whole = [merge(order) for order in (parts, parts[::-1])]
    assert all(len(found["weight/logit_scale"]) == 1 for found in whole)


def layer_steps(decays: list[float]) -> list[dict[str, Tensor]]:
    return [layer_step(decay) for decay in decays]


def layer_step(decay: float) -> dict[str, Tensor]:
    """How far one step moves each parameter."""
    settings = Train(zero_stage=1, precision="fp32", layer_decay=decay, weight_decay=0.0, **SETTINGS)
    engine = Engine(make_model(), settings)
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


def offload(cases: list[Case]) -> list[tuple[Trained, Trained, Resumed]]:
    """Of each case: trained without and with the optimizer on the host, and what the latter makes of the former."""
    found = []
    for stage, precision in cases:
        plain = train_one(make_engine(stage, precision))
        settings = Train(zero_stage=stage, precision=precision, offload=True, **SETTINGS)
        engines = [Engine(make_model(), settings, smallest_partitioned=0) for _ in range(2)]
        found.append((plain, train_one(engines[0]), resume_one(engines[1], plain.saved)))
    return found


def test_an_offloaded_optimizer_does_the_same() -> None:
    cases = [case for case in CASES if case[0] > 0]
    for case, (plain, offloaded, moved) in zip(cases, processes.run(2, offload, cases)[0], strict=True):
        assert moved.same, case
        tolerance = 1e-4 if case[1] == "fp32" else 5e-3  # gradients are summed in another order, then rounded
        for final in (offloaded.final, moved.final):
            assert max(differences(plain.final, final).values()) < tolerance, case
        assert offloaded.losses == pytest.approx(plain.losses, rel=tolerance), case


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
    for found in processes.run(2, skip_a_step, CASES):
        for case, (norm, same, forgotten) in zip(CASES, found, strict=True):
            assert not math.isfinite(norm), case
            assert same, case
            assert forgotten, case
