"""One optimizer step over a global batch, however it is cut into workers and micro-batches.

The loss is that of the whole global batch, so its gradient needs all rows at once. With one micro-batch they are at
hand after the forward pass. With several, a first pass makes the rows without keeping activations, the loss gives their
gradients, and a second pass runs forward again and backpropagates those (Gao et al. 2021, "Scaling Deep Contrastive
Learning Batch Size under Memory Limited Setup").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cliploom.models import normalize_pixels
from cliploom.objectives import GlobalLoss, Ranks

Loss = Callable[[Sequence[Tensor], Tensor, Ranks], GlobalLoss]


class MicroBatch(NamedTuple):
    """What a worker holds activations for at once."""

    pixels: Tensor  # uint8 [m, 3, H, W]
    tokens: Tensor  # int32 [m, 77]
    patches: Tensor | None = None  # int64 [m, P], the patches that are seen; all by default


class Inputs(NamedTuple):
    """A micro-batch as a network's forward takes it."""

    images: Tensor  # [m, 3, H, W], normalised
    tokens: list[Tensor]  # length buckets, [m_i, L_i]
    restore: Tensor  # int64 [m], puts the buckets' rows back in order
    patches: Tensor | None


class StepResult(NamedTuple):
    """What a step found, the same on every worker."""

    loss: Tensor  # [], of the global batch
    shared: Tensor  # [s], the numbers that all samples share: the logit scale, say


class Network(Protocol):
    """What the step needs of a model and its optimizer; `Engine` is one."""

    device: torch.device
    dtype: torch.dtype

    def forward(self, *inputs: object) -> tuple[Tensor, ...]:
        """Of `Inputs`: tensors with a row a sample, [m, ...], and last the numbers that all share, [s]."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; after the last of a step gradients are the mean over workers."""


def loss_and_gradients(
    network: Network,
    batch: Sequence[MicroBatch],
    ranks: Ranks,
    text_buckets: int,
    loss: Loss,
    finite: Callable[[Tensor], bool],
) -> StepResult:
    """The global batch's loss, with its gradients left in the network.

    Args:
        network: the model.
        batch: this worker's micro-batches; rows past `ranks.rows[ranks.rank]` are padding and count nothing.
        ranks: which rows of the global batch this worker holds.
        text_buckets: length buckets each micro-batch's captions are encoded in.
        loss: of the global batch, an objective's.
        finite: asked with the loss; nothing is backpropagated where it says no.
    """
    inputs = [_inputs(micro, network, text_buckets) for micro in batch]
    with torch.set_grad_enabled(len(batch) == 1):
        outputs = [network.forward(*given) for given in inputs]
    *columns, shared = zip(*outputs, strict=True)
    own = ranks.rows[ranks.rank]
    found = loss([torch.cat([part.detach() for part in column])[:own] for column in columns], shared[0].detach(), ranks)
    result = StepResult(found.value, shared[0].detach())
    if not finite(found.value):
        return result
    size = len(batch[0].pixels)
    for number, given in enumerate(inputs):
        last = number == len(inputs) - 1
        *rows, numbers = outputs[0] if len(inputs) == 1 else network.forward(*given)
        part = slice(number * size, (number + 1) * size)
        surrogate = sum(_along(row, gradient[part]) for row, gradient in zip(rows, found.rows, strict=True))
        # Once a step: the numbers are one, though every micro-batch's forward returns them. Elsewhere they take part
        # with a factor of 0, since a parameter without a gradient would leave ZeRO waiting for it.
        surrogate = surrogate + (numbers * (found.shared if last else torch.zeros_like(found.shared))).sum()
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


def _inputs(micro: MicroBatch, network: Network, buckets: int) -> Inputs:
    device = network.device
    images = normalize_pixels(micro.pixels.to(device, non_blocking=True), network.dtype)
    tokens, restore = text_buckets(micro.tokens, buckets)
    patches = None if micro.patches is None else micro.patches.to(device, non_blocking=True)
    moved = [part.to(device, non_blocking=True) for part in tokens]
    return Inputs(images, moved, restore.to(device, non_blocking=True), patches)


def _along(rows: Tensor, gradient: Tensor) -> Tensor:
    """The inner product of rows and their gradient; rows past the gradient's are padding."""
    return (rows[: len(gradient)] * gradient).sum()
