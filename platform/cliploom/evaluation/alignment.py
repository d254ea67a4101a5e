"""How alike two pictures are, should one be a part of the other: laid over each other, whatever was cropped away.

Pictures are thumbnails. A crop is a span of the rows and one of the columns; resampling by a span is a matrix, so that
many spans are tried in one product. Likeness is the correlation of what then lies over each other: it does not
change when a picture becomes brighter or gains contrast, and little when it is scaled or compressed or its colours
shift.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cliploom.evaluation.preparing import SIDE

_FINE, _COARSE = 20, 8  # pixels a side of what is compared
_GREY = 64  # of the coarse comparison: it is of grey pictures
_LEAST = 0.76  # of a side is left of the strongest crop
_ROUNDS = 2  # that rows and columns take turns, among all spans and then around the best
_SHIFTS = torch.tensor([(low, high) for low in (-0.012, 0, 0.012) for high in (-0.012, 0, 0.012)])  # of a span's ends
_PLAIN = 6.0  # grey levels: a picture that varies less shows too little to be told from another
_PLAIN_COARSE = 2.0  # the same of coarse ones, which vary less
_PAIRS = 256  # laid over each other at once

Span = tuple[float, float]  # of a side, from 0 to 1

_WHOLE: Span = (0.0, 1.0)
_COARSE_SPANS = [_WHOLE, *((o, o + 0.9) for o in (0, 0.1)), *((o, o + 0.8) for o in (0, 0.1, 0.2))]
_FINE_SPANS = torch.tensor(
    [
        (step / SIDE, step / SIDE + float(length))
        for length in np.arange(1, _LEAST - 0.01, -0.03)
        for step in range(round((1 - length) * SIDE) + 1)
    ]
).clamp_max(1)


def whole(thumbnails: np.ndarray) -> Tensor:
    """Uint8 [N, 32, 32, 3] -> coarse descriptions of the whole pictures, float32 [N, 64], normalised."""
    return _coarse(thumbnails, [_WHOLE])[:, 0]


def crops(thumbnails: np.ndarray) -> Tensor:
    """Uint8 [N, 32, 32, 3] -> coarse descriptions of the whole and of crops of each picture, [N, K, 64], normalised."""
    return _coarse(thumbnails, _COARSE_SPANS)


def likeness(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How alike the two pictures of each pair are, float32 [P], at most 1; either may be a crop of the other.

    Args:
        some: uint8 [P, 32, 32, 3].
        others: the same.
    """
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(some), _PAIRS):
        one, other = (_pixels(part[start : start + _PAIRS]) for part in (some, others))
        found.append(torch.maximum(_within(one, other), _within(other, one)).numpy())
    return np.concatenate(found)


def _within(small: Tensor, large: Tensor) -> Tensor:
    """The correlation [P] of `small` with the part of `large` that is most like it; both [P, 3, 32, 32].

    Rows and columns take turns: with the one's span as it is, the other's best one is found, first among all, then
    around the best.
    """
    pairs = len(small)
    whole = torch.tensor(_WHOLE).expand(pairs, 1, 2)
    full = _matrices(whole, _FINE)
    target = _standard((full @ small @ full.mT).flatten(1).unflatten(1, (3, -1)))
    best, spans = torch.zeros(pairs), [whole, whole]  # of rows, of columns: [P, 1, 2]
    for shifts in (None,) * _ROUNDS + tuple(_SHIFTS / 2**halved for halved in range(_ROUNDS)):
        for side in (0, 1):
            tried = _FINE_SPANS.expand(pairs, -1, 2) if shifts is None else (spans[side] + shifts).clamp(0, 1)
            picture = large if side else large.mT  # so that the side looked at comes last
            half = _matrices(spans[1 - side], _FINE) @ picture  # [P, 3, n, 32]
            parts = torch.einsum("pcis,pkjs->pkcij", half, _matrices(tried, _FINE))
            scores = torch.einsum("pcx,pkcx->pk", target, _standard((parts if side else parts.mT).flatten(3)))
            best, chosen = scores.max(1)
            spans[side] = tried[torch.arange(pairs), chosen][:, None]
    return best


def _standard(pixels: Tensor) -> Tensor:
    """Pixels [..., 3, X] less each channel's mean, of unit length together; shorter where they hardly vary."""
    centred = pixels - pixels.mean(-1, keepdim=True)
    length = centred.flatten(-2).norm(dim=-1).clamp_min(_PLAIN * (3 * pixels.shape[-1]) ** 0.5)
    return centred / length[..., None, None]


def _coarse(thumbnails: np.ndarray, spans: Sequence[Span]) -> Tensor:
    matrices = _matrices(torch.tensor(spans), _COARSE)
    grey = _pixels(thumbnails).mean(1)
    parts = torch.einsum("kis,nst,ljt->nklij", matrices, grey, matrices).flatten(1, 2).flatten(2)
    centred = parts - parts.mean(-1, keepdim=True)
    return F.normalize(centred, dim=-1, eps=_PLAIN_COARSE * _GREY**0.5)


def _pixels(thumbnails: np.ndarray) -> Tensor:
    return torch.from_numpy(thumbnails).permute(0, 3, 1, 2).float()


def _matrices(spans: Tensor, count: int) -> Tensor:
    """Spans [..., 2] -> matrices [..., count, 32] that average the pixels under each of `count` equal parts."""
    low, high = spans[..., :1] * SIDE, spans[..., 1:] * SIDE
    edges = low + (high - low) * torch.linspace(0, 1, count + 1)
    pixels = torch.arange(SIDE, dtype=torch.float32)
    start, end = edges[..., :-1, None], edges[..., 1:, None]
    covered = (torch.minimum(end, pixels + 1) - torch.maximum(start, pixels)).clamp_min(0)
    return covered / covered.sum(-1, keepdim=True)
