"""What is searched for, and how far."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cliploom.settings.base import Fraction, Positive, Section


class Span(Section):
    """A range that a setting is drawn from."""

    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(False, description="draw evenly in logarithms")
    whole: bool = Field(False, description="draw whole numbers")


class Carry(Section):
    """The larger model that the best settings are carried to."""

    model: str = Field("RN50", description="preset that is trained with what was found")
    factor: float = Field(1.0, gt=0, description="of the compound rule on it")
    samples: Positive | None = Field(None, description="pairs to train it on; by default as in the search")
    global_batch_size: Positive | None = Field(None, description="its batch; by default as in the search")


class Scale(Section):
    """The grid of a scaling search: each model with each budget on each share of the data."""

    factors: list[float] = Field([0.25, 1.0], description="of the compound rule, on model.name")
    samples: list[Positive] = Field([], description="pairs that each model sees")
    flops: list[float] = Field([], description="or compute that each model is trained with, so that all are matched")
    data: list[Fraction] = Field([1.0], description="shares of the shards to train on")
    seeds: Positive = Field(1, description="runs of the cheapest point, which say how far chance goes")
    for_flops: float | None = Field(None, gt=0, description="compute to recommend a model for")
    for_gpu_hours: float | None = Field(None, gt=0, description="or GPU-hours, at cost.flops_per_second")


class Tune(Section):
    """Searches: many trials, each a training run."""

    kind: Literal["settings", "scale", "methods"] = Field(
        "settings", description="search hyper-parameters, fit scaling laws, or compare objectives"
    )
    method: Literal["random", "asha", "tpe", "pbt"] = Field(
        "asha", description="random draws, those with early stopping, Optuna's TPE, or population-based training"
    )
    space: dict[str, list[float | int | str | bool] | Span] = Field(
        {}, description="setting to search: its choices, or {low, high, log, whole}"
    )
    trials: Positive = Field(16, description="of a search of settings")
    seed: int = Field(0, ge=0, lt=2**32, description="of the draws")
    evaluations: Positive = Field(4, description="times that a trial is evaluated, evenly over its samples")
    reduction: int = Field(3, ge=2, description="ASHA keeps one in so many trials (r) at evaluations 1, r, r^2, ...")
    retries: int = Field(1, ge=0, description="times that a failed trial is tried again before it is given up")
    concurrent: Positive | None = Field(None, description="most trials at once; by default what the cluster holds")
    held_out: str | None = Field(None, description="manifest of the pairs that trials are evaluated on")
    held_out_shards: Positive | None = Field(
        None, description="or so many of data.manifest's shards, kept from training"
    )
    held_out_batch: Positive = Field(256, description="pairs that the held-out loss tells apart; all trials the same")
    held_out_batches: Positive = Field(4, description="such batches, of which it is the mean")
    zeroshot: str | None = Field(None, description="folder of a classification set, for zero-shot accuracy as well")
    zeroshot_images: Positive = Field(500, description="most of its images that are looked at")
    objectives: Annotated[list[str], Field(min_length=1)] = Field(
        ["captioning", "bag_of_words", "bag_of_words_contrastive", "contrastive"], description="that are compared"
    )
    scale: Scale = Scale()
    carry: Carry | None = Field(None, description="larger model to carry the best settings to")


class Cost(Section):
    """What `--dry-run` reckons with."""

    flops_per_second: float | None = Field(None, gt=0, description="of a worker; measured on this machine without it")
