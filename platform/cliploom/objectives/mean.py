"""The loss of objectives that judge each sample by itself: the mean of theirs over the global batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cliploom.objectives.loss import GlobalLoss
from cliploom.objectives.ranks import Ranks


@torch.no_grad()
def mean(rows: Sequence[Tensor], shared: Tensor, ranks: Ranks) -> GlobalLoss:
    """Loss and gradients of the mean over samples.

    Args:
        rows: the loss of each of this worker's rows, [b].
        shared: numbers that take no part in it, [0].
        ranks: which rows of the global batch these are.
    """
    [losses] = rows
    value = ranks.sum(losses.sum()) / ranks.total
    return GlobalLoss(value, (torch.full_like(losses, 1 / ranks.total),), torch.zeros_like(shared))
