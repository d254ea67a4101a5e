"""Bytes and seconds of a step.

The seconds are a sum of three: arithmetic at a share of the GPU's peak, time that grows with samples but not with the
model (launches, input, the small layers), and what the gradients' collectives add beyond arithmetic. Three numbers of
it are fitted to published runs of open_clip on A100s, to those of ViT-B-32 and ViT-L-14 alone; of the runs of
ViT-B-16, ViT-H-14 and ViT-g-14, which it was not fitted to, it says the throughput within 22 %, on average within 13 %
(`tests/planning/test_step.py` fits and compares anew). The same configuration has been published with throughputs that
differ by a factor of 2.2, so no formula of the configuration alone comes much closer.
"""

from __future__ import annotations

from typing import NamedTuple

from cliploom.models.config import ModelConfig
from cliploom.models.flops import forward_flops

# Fitted, see above; the A100s' nodes had 4 GPUs and 4 links of 200 Gbit/s.
EFFICIENCY = 0.356  # share of the peak in matrix products
SAMPLE_SECONDS = 0.72e-3
COLLECTIVE_BYTES_PER_SECOND = 7.2e9  # of a GPU, beyond what hides behind arithmetic

# Bytes of a parameter.
_COMPUTE, _WEIGHT, _MOMENTS = 2, 4, 8
_FEATURE_BYTES = 4
_TOKEN_BYTES = 4  # of an id, in the batch that a worker gets


class Gpu(NamedTuple):
    """A kind of GPU.

    Attributes:
        peak: dense bf16 operations a second, from the maker's data sheet.
    """

    peak: float


GPUS = {"A100": Gpu(312e12), "H100": Gpu(989e12), "L4": Gpu(121e12), "V100": Gpu(125e12)}


class Job(NamedTuple):
    """What is trained, on how many GPUs.

    Attributes:
        parameters: of the model.
        forward_flops: of an image and its text.
        batch: samples a step, over all GPUs.
        passes: forward and backward passes' worth of the forward's operations: 3, and one more where activations are
            computed again or where a GPU's part of the batch is cut into micro-batches.
        micro_batches: that a GPU's part of the batch is cut into.
    """

    gpus: int
    batch: int
    parameters: float
    forward_flops: float
    embed_dim: int
    image_size: int
    zero_stage: int
    passes: int
    micro_batches: int = 1
    context_length: int = 77

    @classmethod
    def of(
        cls,
        model: ModelConfig,
        parameters: float,
        gpus: int,
        batch: int,
        zero_stage: int,
        passes: int,
        micro_batches: int = 1,
    ) -> Job:
        """The job of training a model."""
        flops = sum(forward_flops(model))
        size = (model.image_size, zero_stage, passes, micro_batches, model.context_length)
        return cls(gpus, batch, parameters, flops, model.embed_dim, *size)


class Step(NamedTuple):
    """Seconds of a step, by what they go to."""

    arithmetic: float
    samples: float
    collectives: float

    @property
    def seconds(self) -> float:
        """In all."""
        return sum(self)


def step(job: Job, gpu: Gpu, efficiency: float = EFFICIENCY, sample_seconds: float = SAMPLE_SECONDS) -> Step:
    """A step's seconds where nothing waits for data."""
    local = job.batch / job.gpus
    return Step(
        local * job.passes * job.forward_flops / (gpu.peak * efficiency),
        local * sample_seconds,
        sum(collective_bytes(job).values()) / COLLECTIVE_BYTES_PER_SECOND,
    )


def collective_bytes(job: Job) -> dict[str, float]:
    """Bytes that a GPU sends in a step, by collective, in rings: of n bytes, (W-1)/W n for a gather or a scatter.

    What DeepSpeed asks for, of models up to its 1e9 parameters that stay gathered: one all-reduce of gradients at
    stages 0 and 1, one for each micro-batch from stage 2 on. Stage 3 gathers weights once where there is one
    micro-batch, and with several for each of their three passes (`tests/planning/test_collectives.py` counts).
    """
    share = (job.gpus - 1) / job.gpus
    weights, features = _COMPUTE * job.parameters * share, _FEATURE_BYTES * job.batch * job.embed_dim * share
    cuts = job.micro_batches
    match job.zero_stage:
        case 0:  # of gradients in fp32
            towers = {"all-reduce of gradients": 2 * _WEIGHT * job.parameters * share}
        case 3:
            gathers = 1 if cuts == 1 else 3 * cuts
            towers = {"reduce-scatter of gradients": cuts * weights, "all-gather of weights": gathers * weights}
        case stage:
            reductions = cuts if stage == 2 else 1
            towers = {"all-reduce of gradients": reductions * 2 * weights, "all-gather of weights": weights}
    return {**towers, "all-gather of text features": features, "all-reduce of their gradients": 2 * features}


def batch_bytes(job: Job) -> float:
    """Of a global batch as workers get it: pixels as bytes, token ids."""
    return job.batch * (3.0 * job.image_size**2 + _TOKEN_BYTES * job.context_length)


def checkpoint_bytes(parameters: float) -> float:
    """Of a whole checkpoint: weights and two moments in fp32."""
    return (_WEIGHT + _MOMENTS) * parameters
