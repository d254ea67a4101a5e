"""The symmetric contrastive loss of CLIP (Radford et al. 2021, figure 3), over the whole global batch.

The similarity matrix never stands whole. A worker holds its own rows of it, one tile at a time: the first pass over the
tiles finds the log-sum-exp of each row and, merged over tiles and ranks, of each column; the second makes the gradients
of both directions from the same tile. Shape legend: G global batch, b rows of this worker, t rows of a tile, D embed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cliploom.objectives.ranks import Ranks

TILE_ELEMENTS = 2**24  # of a tile of the similarity matrix: 64 MiB in fp32


class GlobalLoss(NamedTuple):
    """The loss of the global batch, and its gradients as far as they are this worker's.

    Summed over workers, `image` and `text` make the gradients of all embeddings, `logit_scale` that of the scale.
    """

    value: Tensor  # [], the same on every rank
    image: Tensor  # [b, D], gradient of the normalised image features
    text: Tensor  # [b, D], gradient of the normalised text features
    logit_scale: Tensor  # [], this worker's share


@torch.no_grad()
def contrastive(
    image_bd: Tensor, text_bd: Tensor, logit_scale: Tensor, ranks: Ranks, tile_elements: int = TILE_ELEMENTS
) -> GlobalLoss:
    """Loss and gradients of matching each image with its text, and each text with its image, in the global batch.

    Args:
        image_bd: normalised image features of this worker's rows, fp32 or fp64 [b, D].
        text_bd: normalised text features of the same rows [b, D].
        logit_scale: the factor of the cosine similarities, [] or [1].
        ranks: which rows of the global batch these are.
        tile_elements: elements of a tile of the similarity matrix.
    """
    scale = logit_scale.reshape(())
    text_gd = ranks.gather(text_bd)
    tiles = list(_tiles(len(image_bd), ranks.total, tile_elements))

    row_lse_b = image_bd.new_empty(len(image_bd))
    column_lse_g = image_bd.new_full((ranks.total,), -torch.inf)
    diagonal = image_bd.new_zeros(())
    logits_tg = image_bd.new_empty(0)
    for tile in tiles:
        logits_tg = _logits(image_bd[tile], text_gd, scale)
        row_lse_b[tile] = logits_tg.logsumexp(1)
        column_lse_g = torch.logaddexp(column_lse_g, logits_tg.logsumexp(0))
        diagonal += logits_tg.diagonal(ranks.start + tile.start).sum()
    column_lse_g = ranks.stack(column_lse_g).logsumexp(0)
    value = ranks.sum(row_lse_b.sum() + column_lse_g[ranks.own].sum() - 2 * diagonal) / (2 * ranks.total)

    image_grad_bd = torch.empty_like(image_bd)
    text_grad_gd = torch.zeros_like(text_gd)
    scale_grad = torch.zeros_like(scale)
    for tile in tiles:
        if len(tiles) > 1:  # the only tile is still there
            logits_tg = _logits(image_bd[tile], text_gd, scale)
        grad_tg = torch.exp(logits_tg - row_lse_b[tile, None])
        grad_tg += torch.exp(logits_tg - column_lse_g)
        grad_tg.diagonal(ranks.start + tile.start).sub_(2)
        grad_tg /= 2 * ranks.total
        scale_grad += torch.dot(grad_tg.flatten(), logits_tg.flatten()) / scale
        torch.mm(grad_tg, text_gd, out=image_grad_bd[tile])
        text_grad_gd.addmm_(grad_tg.T, image_bd[tile])
    return GlobalLoss(value, image_grad_bd * scale, ranks.scatter_sum(text_grad_gd) * scale, scale_grad)


def _logits(image_td: Tensor, text_gd: Tensor, scale: Tensor) -> Tensor:
    return (image_td * scale) @ text_gd.T


def _tiles(rows: int, columns: int, elements: int) -> Iterator[slice]:
    height = max(1, elements // columns)
    for start in range(0, rows, height):
        yield slice(start, min(start + height, rows))
