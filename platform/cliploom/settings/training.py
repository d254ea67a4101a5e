"""The network, what it learns, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cliploom.settings.base import Ascending, Fraction, Positive, Precision, Section


class Model(Section):
    """Which network."""

    name: str = Field("ViT-B-32", description="a preset; `cliploom.list_models()` lists them")
    factor: float = Field(1.0, gt=0, description="compute of an image, in units of the preset's; by the compound rule")
    weights: str | None = Field(None, description="file or folder to start from; random weights without one")
    activation: Literal["quick_gelu", "gelu"] | None = Field(
        None, description="of the transformers; by default that of the weights, or quick_gelu"
    )
    patch_dropout: float = Field(0.0, ge=0, lt=1, description="share of an image's patches that a visit leaves out")


class Objective(Section):
    """What is learned from the pairs."""

    name: Literal["contrastive", "sigmoid", "bag_of_words_contrastive", "captioning", "bag_of_words", "ngrams"] = Field(
        "contrastive", description="the task whose loss is minimised"
    )
    ngrams: str | None = Field(None, description="dictionary for the objective ngrams, from jobs/ngrams.py")


class Train(Section):
    """The optimisation and its workers."""

    global_batch_size: Positive = Field(1024, description="pairs an optimizer step, over all workers")
    micro_batch_size: Positive = Field(256, description="pairs a worker holds activations for at once")
    workers: Annotated[Positive | tuple[Positive, Positive], Ascending] = Field(
        1, description="a number, or [min, max] for elastic training"
    )
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs reserved for each worker")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs reserved for each worker")
    memory_gb_per_worker: float = Field(0.0, ge=0, description="memory reserved for each worker, in GiB")
    pool: str | None = Field("train", description="label of the workers' nodes; any node where none has it")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage")
    offload: bool = Field(
        False, description="AdamW and its fp32 state on the host, where a GPU's memory is short; ZeRO 1 to 3"
    )
    precision: Precision = Field("bf16", description="of the compute; master weights are fp32")
    seed: int = Field(0, ge=0, lt=2**63, description="of the plan, the initial weights and the augmentation")
    samples: Positive | None = Field(None, description="pairs to train on, in all")
    epochs: float | None = Field(None, gt=0, description="passes over the data, instead of train.samples")
    max_hours: float | None = Field(None, gt=0, description="of all the run's jobs together; then it saves and stops")
    learning_rate: float = Field(5e-4, gt=0, description="the highest, after warm-up")
    warmup_samples: int = Field(0, ge=0, description="samples of linear warm-up")
    weight_decay: float = Field(0.2, ge=0, description="decoupled; not on gains, biases and logit scale")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the rate with each block before the last")
    lock: Literal["none", "image", "text"] = Field("none", description="tower that stays as it is")
    beta1: Fraction = Field(0.9, description="AdamW")
    beta2: Fraction = Field(0.98, description="AdamW")
    epsilon: float = Field(1e-6, gt=0, description="AdamW")
    max_gradient_norm: float | None = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    norm_batch_size: Positive = Field(32, description="consecutive samples that a ResNet's BatchNorm normalises over")
    text_buckets: Positive = Field(1, description="length buckets a micro-batch's captions are encoded in")
    activation_checkpointing: bool = Field(False, description="keep blocks' inputs alone, for memory, and recompute")
    compile: bool = Field(False, description="compile the transformers' blocks at the first step")
    checkpoint_steps: Positive = Field(500, description="steps between checkpoints")
    checkpoint_minutes: float = Field(15, gt=0, description="longest time between checkpoints")
    keep_checkpoints: Positive = Field(
        2, description="the last so many whole ones stay, and the best by evaluate_steps"
    )
    max_failures: int = Field(3, ge=0, description="restarts of failed workers before the run gives up")
    max_preemptions: int = Field(100, ge=0, description="restarts after nodes that were drained or lost")
    timeout_minutes: float = Field(10, gt=0, description="a step that takes longer is a hang: stacks, then a restart")
    start_timeout_minutes: float = Field(30, gt=0, description="the same for an attempt's first step, with compiling")
    resize_seconds: float = Field(60, gt=0, description="between looks for room for more workers, up to the maximum")
    max_skipped: Positive = Field(8, description="steps in a row with a loss or gradient that is not finite")
    log_steps: Positive = Field(10, description="steps between progress lines and metrics")
    profile_steps: Annotated[tuple[Positive, Positive] | None, Ascending] = Field(
        None, description="[first, last] step of which a torch profiler trace is kept, in the run and in MLflow"
    )
    evaluate_steps: Positive | None = Field(
        None, description="steps between zero-shot checks of checkpoints on evaluate.suite, beside the workers"
    )
