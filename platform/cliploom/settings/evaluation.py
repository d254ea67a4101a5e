"""What is measured, on which model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cliploom.settings.base import Positive, Section
from cliploom.settings.registry import Gates


class EvaluateOverlap(Section):
    """Which test samples count as those of the training data."""

    manifest: str | None = Field(None, description="of the training shards; without it overlap is not looked for")
    min_likeness: float = Field(
        0.92, gt=0, le=1, description="of two such pictures laid over each other; check the pairs that are shown"
    )


class Evaluate(Section):
    """What is measured, on which model."""

    model: str | None = Field(
        None, description="models:/NAME@ALIAS, models:/NAME/VERSION, weights, or a training run's folder"
    )
    suite: str | None = Field(None, description="YAML list of datasets, tasks and metrics")
    root: str = Field(".", description="URI that the suite's dataset paths are relative to")
    batch_size: Positive = Field(128, description="images a batch")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of the compute on GPUs; CPUs compute in fp32")
    workers: Positive = Field(1, description="model actors")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs of a model actor")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs of a model actor")
    pool: str | None = Field("evaluate", description="label of the nodes that evaluate; any node where none has it")
    cpus_per_task: float = Field(0.5, gt=0, description="CPUs a decoding task reserves, each a thread")
    references: str | None = Field(None, description="CSV of other models' accuracies, for effective robustness")
    overlap: EvaluateOverlap = EvaluateOverlap()
    gates: Gates = Gates()
