"""The bytes that the simulator has a GPU send, beside the collectives that training asks for."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import test_step
import torch
import torch.distributed as dist
from test_step import cut, make_batch, take_gradients

import processes
from cliploom import models
from cliploom.planning.step import Job, collective_bytes
from cliploom.settings.training import Train
from cliploom.training.engine import Engine

pytestmark = pytest.mark.integration
WORLD = 2
MODEL = models.preset("ViT-mu-8-32")
STAGES, CUTS = (0, 1, 2, 3), (1, 2)
# Of the largest tensor that is handed over, the times that a ring sends its share.
SENT = {"all_reduce": 2, "all_gather_into_tensor": 1, "reduce_scatter_tensor": 1}
SHARE = (WORLD - 1) / WORLD
Volumes = Counter[tuple[str, torch.dtype]]


def count(volumes: Volumes, name: str) -> None:
    """Let a collective count its bytes."""
    real = getattr(dist, name)

    def counting(*inputs: Any, **named: Any) -> Any:
        largest = max((x for x in (*inputs, *named.values()) if isinstance(x, torch.Tensor)), key=torch.numel)
        volumes[name, largest.dtype] += round(SENT[name] * SHARE * largest.nbytes)
        return real(*inputs, **named)

    setattr(dist, name, counting)


def measure() -> tuple[int, dict[tuple[int, int], Volumes]]:
    """Parameters, and what a worker sends in a step by stage and micro-batches."""
    volumes: Volumes = Counter()
    for name in SENT:
        count(volumes, name)
    found = {}
    for stage, cuts in itertools.product(STAGES, CUTS):
        model = models.create(MODEL, seed=0)
        parameters = sum(p.numel() for p in model.parameters())
        engine = Engine(model, Train(zero_stage=stage, precision="bf16"), smallest_partitioned=0)
        rows = -(-test_step.BATCH // WORLD)
        micros, ranks = cut(*make_batch(), WORLD, dist.get_rank(), -(-rows // cuts))
        assert len(micros) == cuts
        for _ in range(4):  # ZeRO-3 learns in the first steps in which order weights are needed
            volumes.clear()
            take_gradients(engine, "contrastive", micros, ranks, 1)
            engine.step(1e-4)
        found[stage, cuts] = volumes.copy()
    return parameters, found


def test_a_worker_sends_what_the_simulator_says() -> None:
    parameters, found = processes.run(WORLD, measure)[0]
    for (stage, cuts), volumes in found.items():
        job = Job.of(MODEL, parameters, WORLD, test_step.BATCH, stage, passes=3, micro_batches=cuts)
        said = collective_bytes(job)
        assert sum(volumes.values()) == pytest.approx(sum(said.values()), rel=0.01), (stage, cuts, volumes)
        if stage > 0:  # there the features alone are fp32
            features = volumes["all_gather_into_tensor", torch.float32], volumes["all_reduce", torch.float32]
            told = said["all-gather of text features"], said["all-reduce of their gradients"]
            assert features == pytest.approx(told, rel=0.15), (stage, cuts)
