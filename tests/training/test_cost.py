"""What a dry run foretells, against what real steps take: operations that torch counts, bytes of tensors held."""

from __future__ import annotations

import gc
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import pairs
import processes
from cliploom import config, objectives
from cliploom.data.plan import WorkItem, rank_span
from cliploom.data.reader import Reader
from cliploom.objectives import Ranks
from cliploom.training import cost
from cliploom.training.engine import Engine
from cliploom.training.network import build
from cliploom.training.run import Run, plan_run
from cliploom.training.step import MicroBatch, loss_and_gradients

BATCH = 32


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pairs.write(tmp_path_factory.mktemp("pairs"), several=True)


def planned(shards: str, folder: Path, *settings: str) -> Run:
    size = [f"train.global_batch_size={BATCH}", f"train.samples={10 * BATCH}", "train.precision=fp32"]
    place = ["run.name=priced", f"run.storage={folder}", f"data.manifest={shards}"]
    return plan_run(config.load(None, [*place, *size, "model.name=ViT-mu-8-32", *settings]))


def micros(run: Run, rows: int) -> list[MicroBatch]:
    """The run's first global batch on this rank, in micro-batches of so many rows."""
    start, stop = rank_span(BATCH, dist.get_world_size(), dist.get_rank())
    reader = Reader(run.stream.source)
    found = [reader.read(WorkItem(0, 0, 0, first, first + rows, rows)) for first in range(start, stop, rows)]
    patches = torch.arange(run.kept_patches).expand(rows, -1) if run.kept_patches else None
    return [MicroBatch(torch.from_numpy(one.pixels), torch.from_numpy(one.tokens), patches) for one in found]


def take_step(run: Run, engine: Engine) -> None:
    world, rank = dist.get_world_size(), dist.get_rank()
    rows = min(run.config.train.micro_batch_size, BATCH // world)
    loss = objectives.objective(run.config.objective.name).loss
    ranks = Ranks([BATCH // world] * world, rank)
    loss_and_gradients(engine, micros(run, rows), ranks, run.config.train.text_buckets, loss, lambda _: True)


def held_bytes() -> int:
    """Of all tensors that this process holds, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            if thing.is_leaf and thing.grad is not None:
                storages[thing.grad.untyped_storage().data_ptr()] = thing.grad.untyped_storage().nbytes()
    return sum(storages.values())


def measure(runs: list[Run]) -> list[tuple[int, int]]:
    """Of each run: FLOPs of a step of this worker, and bytes held after its second step's backward."""
    results = []
    for run in runs:
        before = held_bytes()
        engine = Engine(build(run, None), run.config.train, smallest_partitioned=0)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            take_step(run, engine)
        engine.step(1e-3)
        take_step(run, engine)
        results.append((counter.get_total_flops(), held_bytes() - before))
        engine.step(1e-3)
        del engine
    return results


@pytest.mark.integration
@pytest.mark.parametrize("world", [1, 2])
def test_operations_and_memory_are_within_a_tenth_of_the_measured(shards: str, tmp_path: Path, world: int) -> None:
    cases = list(product((0, 1, 2, 3), ("fp32", "bf16")))
    settings = [f"train.workers={world}", "train.text_buckets=2"]
    runs = [
        planned(shards, tmp_path, *settings, f"train.zero_stage={stage}", f"train.precision={precision}")
        for stage, precision in cases
    ]
    found = processes.run(world, measure, runs)
    for (stage, precision), run, *measured in zip(cases, runs, *found, strict=True):
        told = cost.estimate(run)
        flops = sum(one[0] for one in measured)
        assert flops / BATCH == pytest.approx(told.sample_flops, rel=0.1), (precision, stage)
        for _, held in measured:
            assert held == pytest.approx(told.state_bytes[stage], rel=0.1), (precision, stage)


@pytest.mark.integration
def test_operations_of_every_objective_are_within_a_tenth_of_the_measured(shards: str, tmp_path: Path) -> None:
    names = ("contrastive", "sigmoid", "captioning", "bag_of_words", "bag_of_words_contrastive")
    runs = [planned(shards, tmp_path, f"objective.name={name}") for name in names]
    for name, run, (flops, _) in zip(names, runs, *processes.run(1, measure, runs), strict=True):
        assert flops / BATCH == pytest.approx(cost.estimate(run).sample_flops, rel=0.1), name


@pytest.mark.integration
def test_what_is_locked_or_not_seen_is_not_counted(shards: str, tmp_path: Path) -> None:
    stages = [f"train.zero_stage={stage}" for stage in range(4)]
    locked = [["model.weights=w", f"train.lock={tower}", stage] for tower in ("image", "text") for stage in stages]
    runs = [planned(shards, tmp_path, *settings) for settings in (*locked, ["model.patch_dropout=0.5"])]
    for run, (flops, held) in zip(runs, *processes.run(1, measure, runs), strict=True):
        told, train = cost.estimate(run), run.config.train
        assert flops / BATCH == pytest.approx(told.sample_flops, rel=0.1), train.lock
        assert held == pytest.approx(told.state_bytes[train.zero_stage], rel=0.1), (train.lock, train.zero_stage)


def activations(run: Run) -> int:
    """Bytes that one real forward of the run's first micro-batch keeps for backward, weights apart."""
    network = build(run, None)
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    held: dict[int, tuple[Any, int]] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = (value, storage.nbytes())  # kept alive, so that no other takes its place
        return value

    batch = Reader(run.stream.source).read(WorkItem(0, 0, 0, 0, BATCH, BATCH))
    tokens = torch.from_numpy(batch.tokens)
    tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1]
    images = torch.randn(BATCH, 3, run.model.image_size, run.model.image_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), sdpa_kernel(SDPBackend.MATH):
        network(images, tokens)
    return sum(size for _, size in held.values())


@pytest.mark.parametrize("name", ["ViT-mu-8-32", "RN14-mu-64"])
def test_activations_are_within_a_tenth_of_what_a_forward_keeps(shards: str, tmp_path: Path, name: str) -> None:
    run = planned(shards, tmp_path, f"model.name={name}")
    assert activations(run) == pytest.approx(cost.estimate(run).activation_bytes, rel=0.1)


def test_several_micro_batches_take_a_forward_more(shards: str, tmp_path: Path) -> None:
    one = cost.estimate(planned(shards, tmp_path, "train.micro_batch_size=32"))
    two = cost.estimate(planned(shards, tmp_path, "train.micro_batch_size=16"))
    assert two.sample_flops / one.sample_flops == pytest.approx(4 / 3, rel=0.05)
    assert two.activation_bytes == pytest.approx(one.activation_bytes / 2, rel=0.05)


def test_the_table_says_all_of_it(shards: str, tmp_path: Path) -> None:
    run = planned(shards, tmp_path, "cost.flops_per_second=1e9")
    told = cost.estimate(run).table(*cost.rate(run.config, run))
    for word in ("1,643,297", "ZeRO 0", "ZeRO 3", "checkpoint   18.8 MiB", "10 (320 samples)", "1e+09 FLOP/s"):
        assert word in told
