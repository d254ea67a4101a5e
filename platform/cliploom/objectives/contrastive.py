"""The symmetric contrastive loss of CLIP (Radford et al. 2021, figure 3), over the whole global batch.

The similarity matrix never stands whole. A worker holds its own rows of it, one tile at a time: the first pass over the
tiles finds the log-sum-exp of each row and, merged over tiles and ranks, of each column; the second makes the gradients
of both directions from the same tile. Shape legend: G global batch, b rows of this worker, t rows of a tile, D embed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cliploom.objectives.loss import GlobalLoss, tiles
from cliploom.objectives.ranks import Ranks


@torch.no_grad()
def contrastive(rows: Sequence[Tensor], shared: Tensor, ranks: Ranks, tile_elements: int | None = None) -> GlobalLoss:
    """Loss and gradients of matching each image with its text, and each text with its image, in the global batch.

    Args:
        rows: normalised image features and text features of this worker's rows, fp32 or fp64 [b, D].
        shared: the factor of the cosine similarities, [1].
        ranks: which rows of the global batch these are.
        tile_elements: most elements of a tile of the similarity matrix; by default as many as suit the device.
    """
    image_bd, text_bd = rows
    scale = shared.reshape(())
    text_gd = ranks.gather(text_bd)
    parts = list(tiles(image_bd, ranks.total, tile_elements))

    row_lse_b = image_bd.new_empty(len(image_bd))
    column_lse_g = image_bd.new_full((ranks.total,), -torch.inf)
    diagonal = image_bd.new_zeros(())
    logits_tg = image_bd.new_empty(0)
    for part in parts:
        logits_tg = _logits(image_bd[part], text_gd, scale)
        row_lse_b[part] = logits_tg.logsumexp(1)
        column_lse_g = torch.logaddexp(column_lse_g, logits_tg.logsumexp(0))
        diagonal += logits_tg.diagonal(ranks.start + part.start).sum()
    column_lse_g = ranks.stack(column_lse_g).logsumexp(0)
    value = ranks.sum(row_lse_b.sum() + column_lse_g[ranks.own].sum() - 2 * diagonal) / (2 * ranks.total)

    image_grad_bd = torch.empty_like(image_bd)
    text_grad_gd = torch.zeros_like(text_gd)
    scale_grad = torch.zeros_like(scale)
    for part in parts:
        if len(parts) > 1:  # the only tile is still there
            logits_tg = _logits(image_bd[part], text_gd, scale)
        grad_tg = torch.exp(logits_tg - row_lse_b[part, None])
        grad_tg += torch.exp(logits_tg - column_lse_g)
        grad_tg.diagonal(ranks.start + part.start).sub_(2)
        grad_tg /= 2 * ranks.total
        scale_grad += torch.dot(grad_tg.flatten(), logits_tg.flatten()) / scale
        torch.mm(grad_tg, text_gd, out=image_grad_bd[part])
        text_grad_gd.addmm_(grad_tg.T, image_bd[part])
    gradients = (image_grad_bd * scale, ranks.scatter_sum(text_grad_gd) * scale)
    return GlobalLoss(value, gradients, scale_grad.reshape(1))


def _logits(image_td: Tensor, text_gd: Tensor, scale: Tensor) -> Tensor:
    return (image_td * scale) @ text_gd.T
