"""What is measured, on which model."""

from __future__ import annotations

from pydantic import Field

from cliploom.settings.base import Positive, Precision, Section
from cliploom.settings.registry import Gates


class EvaluateOverlap(Section):
    """Which test samples count as those of the training data."""

    manifest: str | None = Field(None, description="of the training shards; without it overlap is not looked for")
    min_likeness: float = Field(
        0.94, gt=0, le=1, description="of two such pictures laid over each other; check the pairs that are shown"
    )


class Webhook(Section):
    """Where MLflow's webhooks wake a watching evaluator; the secret is in CLIPLOOM_WEBHOOK_SECRET."""

    address: str | None = Field(
        None, pattern=r":\d+$", description="HOST:PORT to listen at, by HTTPS; else polling alone"
    )
    certificate: str | None = Field(None, description="PEM file")
    key: str | None = Field(None, description="PEM file of the certificate's key")


class Workers(Section):
    """How images go through a model."""

    batch_size: Positive = Field(128, description="images a batch")
    precision: Precision | None = Field(
        None,
        description="of the compute; where none is named bf16 on GPUs, fp32 on CPUs, of which few are fast in bf16",
    )
    workers: Positive = Field(1, description="model actors")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs of a model actor")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs of a model actor")
    pool: str | None = Field("evaluate", description="label of the nodes that evaluate; any node where none has it")
    cpus_per_task: float = Field(0.5, gt=0, description="CPUs a decoding task reserves, each a thread")


class Evaluate(Workers):
    """What is measured, on which model."""

    model: str | None = Field(
        None, description="models:/NAME@ALIAS, models:/NAME/VERSION, weights, or a training run's folder"
    )
    pending: bool = Field(False, description="every candidate not evaluated yet, as without evaluate.model")
    watch: bool = Field(False, description="go on, and evaluate candidates as they come")
    poll_seconds: float = Field(30, gt=0, description="between looks into the registry")
    lease_seconds: float = Field(300, gt=0, description="silence after which another evaluator takes the work over")
    webhook: Webhook = Webhook()
    suite: str | None = Field(None, description="YAML list of datasets, tasks and metrics")
    root: str = Field(".", description="URI that the suite's dataset paths are relative to")
    references: str | None = Field(None, description="CSV of other models' accuracies, for effective robustness")
    overlap: EvaluateOverlap = EvaluateOverlap()
    gates: Gates = Gates()
