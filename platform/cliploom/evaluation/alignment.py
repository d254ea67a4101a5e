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
_ROUNDS = 2  # that rows and columns take turns
_PLAIN = 6.0  # grey levels: a picture that varies less shows too little to be told from another
_PLAIN_COARSE = 2.0  # the same of coarse ones, which vary less
_PAIRS = 256  # laid over each other at once

Span = tuple[float, float]  # of a side, from 0 to 1

_WHOLE: Span = (0.0, 1.0)
_COARSE_SPANS = [_WHOLE, *((o, o + 0.9) for o in (0, 0.1)), *((o, o + 0.8) for o in (0, 0.1, 0.2))]
_FINE_SPANS = [
    (step / SIDE, step / SIDE + length)
    for length in np.arange(1, _LEAST - 0.01, -0.03)
    for step in range(round((1 - length) * SIDE) + 1)
]


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

    Rows and columns take turns: with the one's span as it is, the other's best one is found among all.
    """
    spans, full = _matrices(_FINE_SPANS, _FINE), _matrices([_WHOLE], _FINE)[0]
    target = _standard((full @ small @ full.T).flatten(1).unflatten(1, (3, -1)))
    rows = columns = full.expand(len(small), 1, *full.shape)
    best = torch.zeros(len(small))
    for _ in range(_ROUNDS):
        for across in (False, True):
            kept = rows if across else columns
            picture = large if across else large.transpose(2, 3)  # so that the side looked at comes last
            half = kept @ picture  # [P, 3, n, 32]
            tried = torch.einsum("pcis,kjs->pkcij", half, spans)
            if not across:
                tried = tried.transpose(3, 4)
            scores = torch.einsum("pcx,pkcx->pk", target, _standard(tried.flatten(3)))
            best, chosen = scores.max(1)
            if across:
                columns = spans[chosen][:, None]
            else:
                rows = spans[chosen][:, None]
    return best


def _standard(pixels: Tensor) -> Tensor:
    """Pixels [..., 3, X] less each channel's mean, of unit length together; shorter where they hardly vary."""
    centred = pixels - pixels.mean(-1, keepdim=True)
    length = centred.flatten(-2).norm(dim=-1).clamp_min(_PLAIN * (3 * pixels.shape[-1]) ** 0.5)
    return centred / length[..., None, None]


def _coarse(thumbnails: np.ndarray, spans: Sequence[Span]) -> Tensor:
    matrices = _matrices(spans, _COARSE)
    grey = _pixels(thumbnails).mean(1)
    parts = torch.einsum("kis,nst,ljt->nklij", matrices, grey, matrices).flatten(1, 2).flatten(2)
    centred = parts - parts.mean(-1, keepdim=True)
    return F.normalize(centred, dim=-1, eps=_PLAIN_COARSE * _GREY**0.5)


def _pixels(thumbnails: np.ndarray) -> Tensor:
    return torch.from_numpy(thumbnails).permute(0, 3, 1, 2).float()


def _matrices(spans: Sequence[Span], count: int) -> Tensor:
    """For each span the matrix [count, 32] that averages the pixels under each of `count` equal parts of it."""
    lows, highs = (torch.tensor([span[end] for span in spans])[:, None] * SIDE for end in (0, 1))
    edges = lows + (highs - lows) * torch.linspace(0, 1, count + 1)
    pixels = torch.arange(SIDE, dtype=torch.float32)
    low, high = edges[:, :-1, None], edges[:, 1:, None]
    covered = (torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)).clamp_min(0)
    return covered / covered.sum(-1, keepdim=True)
