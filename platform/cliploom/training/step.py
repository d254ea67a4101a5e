"""One optimizer step over a global batch, however it is cut into workers and micro-batches.

The loss is that of the whole global batch, so its gradient needs all embeddings at once. With one micro-batch they are
at hand after the forward pass. With several, a first pass makes the embeddings without keeping activations, the loss
gives their gradients, and a second pass runs forward again and backpropagates those (Gao et al. 2021, "Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cliploom.models import normalize_pixels
from cliploom.objectives import Ranks, contrastive


class MicroBatch(NamedTuple):
    """What a worker holds activations for at once."""

    pixels: Tensor  # uint8 [m, 3, H, W]
    tokens: Tensor  # int32 [m, 77]


class StepResult(NamedTuple):
    """What a step found, the same on every worker."""

    loss: Tensor  # [], of the global batch
    logit_scale: Tensor  # [], the factor itself


class Network(Protocol):
    """What the step needs of a model and its optimizer; `Engine` is one."""

    device: torch.device
    dtype: torch.dtype

    def forward(self, images: Tensor, tokens: list[Tensor], restore: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(image features [m, D], text features [m, D], logit scale [1])."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; after the last of a step gradients are the mean over workers."""


def loss_and_gradients(
    network: Network, batch: Sequence[MicroBatch], ranks: Ranks, text_buckets: int, finite: Callable[[Tensor], bool]
) -> StepResult:
    """The global batch's loss, with its gradients left in the network.

    Args:
        network: the model.
        batch: this worker's micro-batches; rows past `ranks.rows[ranks.rank]` are padding and count nothing.
        ranks: which rows of the global batch this worker holds.
        text_buckets: length buckets each micro-batch's captions are encoded in.
        finite: asked with the loss; nothing is backpropagated where it says no.
    """
    inputs = [_inputs(micro, network, text_buckets) for micro in batch]
    with torch.set_grad_enabled(len(batch) == 1):
        outputs = [network.forward(*given) for given in inputs]
    rows = ranks.rows[ranks.rank]
    image, text = (torch.cat([output[side].detach() for output in outputs])[:rows] for side in (0, 1))
    loss = contrastive(image, text, outputs[0][2].detach(), ranks)
    result = StepResult(loss.value, outputs[0][2].detach().reshape(()))
    if not finite(loss.value):
        return result
    size = len(batch[0].pixels)
    for number, given in enumerate(inputs):
        last = number == len(inputs) - 1
        output = outputs[0] if len(inputs) == 1 else network.forward(*given)
        part = slice(number * size, (number + 1) * size)
        surrogate = _along(output[0], loss.image[part]) + _along(output[1], loss.text[part])
        # Once a step: the scale is one, though every micro-batch's forward returns it. Elsewhere it takes part with
        # a factor of 0, since a parameter without a gradient would leave ZeRO waiting for it.
        surrogate = surrogate + output[2].sum() * (loss.logit_scale if last else 0.0)
        network.backward(surrogate * len(ranks.rows), last)
    return result


def text_buckets(tokens: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
    """Captions sorted by length into `count` buckets, each cut after its longest.

    Exact, since attention is causal and pooling is at the end-of-text token, the highest id.

    Args:
        tokens: int [m, L].
        count: number of buckets; fewer where there are fewer rows.

    Returns:
        The buckets, and the int64 [m] that puts their rows back in order.
    """
    lengths = tokens.argmax(-1) + 1
    order = lengths.argsort(stable=True)
    buckets = [tokens[rows, : int(lengths[rows[-1]])] for rows in order.tensor_split(min(count, len(order)))]
    return buckets, order.argsort()


def _inputs(micro: MicroBatch, network: Network, buckets: int) -> tuple[Tensor, list[Tensor], Tensor]:
    device = network.device
    images = normalize_pixels(micro.pixels.to(device, non_blocking=True), network.dtype)
    tokens, restore = text_buckets(micro.tokens, buckets)
    return images, [part.to(device, non_blocking=True) for part in tokens], restore.to(device, non_blocking=True)


def _along(features: Tensor, gradient: Tensor) -> Tensor:
    """The inner product of features and their gradient; rows past the gradient's are padding."""
    return (features[: len(gradient)] * gradient).sum()
