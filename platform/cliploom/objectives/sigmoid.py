"""The sigmoid loss (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training"), over the whole global batch.

Each image-text pair of the batch is a yes-or-no question of its own: do they belong together? One pass over the tiles
makes loss and gradients. Shape legend: G global batch, b rows of this worker, t rows of a tile, D embed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cliploom.objectives.loss import GlobalLoss, tiles
from cliploom.objectives.ranks import Ranks


@torch.no_grad()
def sigmoid(rows: Sequence[Tensor], shared: Tensor, ranks: Ranks, tile_elements: int | None = None) -> GlobalLoss:
    """Loss and gradients of telling each pair of the global batch from all that are none; the sum of G^2 over G.

    Args:
        rows: normalised image features and text features of this worker's rows, fp32 or fp64 [b, D].
        shared: the factor of the cosine similarities, and what is added then, [2].
        ranks: which rows of the global batch these are.
        tile_elements: most elements of a tile of the similarity matrix; by default as many as suit the device.
    """
    image_bd, text_bd = rows
    scale, bias = shared
    text_gd = ranks.gather(text_bd)
    value = torch.zeros_like(scale)
    shared_grad = torch.zeros_like(shared)
    image_grad_bd = torch.empty_like(image_bd)
    text_grad_gd = torch.zeros_like(text_gd)
    for part in tiles(image_bd, ranks.total, tile_elements):
        scaled_tg = (image_bd[part] * scale) @ text_gd.T
        logits_tg = scaled_tg + bias
        own = logits_tg.diagonal(ranks.start + part.start)
        # Of a pair -log sigmoid(x), of all others -log sigmoid(-x) = x - log sigmoid(x).
        value += F.softplus(logits_tg).sum() - own.sum()
        grad_tg = logits_tg.sigmoid_()
        grad_tg.diagonal(ranks.start + part.start).sub_(1)
        grad_tg /= ranks.total
        shared_grad[0] += torch.dot(grad_tg.flatten(), scaled_tg.flatten()) / scale
        shared_grad[1] += grad_tg.sum()
        torch.mm(grad_tg, text_gd, out=image_grad_bd[part])
        text_grad_gd.addmm_(grad_tg.T, image_bd[part])
    gradients = (image_grad_bd * scale, ranks.scatter_sum(text_grad_gd) * scale)
    return GlobalLoss(ranks.sum(value) / ranks.total, gradients, shared_grad)
