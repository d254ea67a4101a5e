"""Test samples that training data hold too, perhaps cropped, scaled, compressed or recoloured.

For each test sample a few training pictures are looked up, by the cosine of the model's image embeddings and by coarse
descriptions of the pictures and of crops of them. Every pair is compared, a training shard at a time, so that memory
stays that of a shard. The pictures found are then laid over each other, which decides (`alignment`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cliploom.evaluation import alignment
from cliploom.evaluation.store import Features

_LOOKED_UP = 3  # pictures by each way
_TILE = 1 << 22  # pairs compared at once
_ALIKE = 0.7  # coarse descriptions of pictures that are worth laying over each other


@dataclass(frozen=True)
class Nearest:
    """For each of N test samples, the training picture most like it."""

    likeness: (
        np.ndarray
    )  # float32 [N], of both laid over each other; 0 where none is worth that, -1 where there is none
    cosine: np.ndarray  # float32 [N], of the two embeddings
    place: np.ndarray  # int64 [N, 2]: shard, and number in it


@dataclass
class _Found:
    """The best training pictures so far of each test sample, by one way; not sorted."""

    values: Tensor  # float32 [N, K]
    places: Tensor  # int64 [N, K, 2]

    def update(self, scores: Tensor, rows: slice, shard: int, numbers: Tensor) -> None:
        """Take over what is better of `scores` [n, M] of the samples at `rows` with a shard's pictures."""
        values, best = scores.topk(min(_LOOKED_UP, scores.shape[1]), 1)
        places = torch.stack([torch.full_like(best, shard), numbers[best]], 2)
        together = torch.cat([self.values[rows], values], 1)
        kept = together.topk(_LOOKED_UP, 1).indices
        self.values[rows] = together.gather(1, kept)
        both = torch.cat([self.places[rows], places], 1)
        self.places[rows] = both.gather(1, kept[..., None].expand(-1, -1, 2))


def nearest(test: Features, shards: int, load: Callable[[int], Features]) -> Nearest:
    """Compare test samples with the usable pictures of training shards.

    Args:
        test: N samples, all usable.
        shards: how many there are.
        load: gives the features of a shard; each is asked for twice.
    """
    ways = [_Found(torch.full((len(test), _LOOKED_UP), -2.0), torch.full((len(test), _LOOKED_UP, 2), -1)) for _ in "ab"]
    for number in range(shards):
        _look_up(test, load(number), number, *ways)
    candidates = torch.cat([way.places for way in ways], 1).numpy()
    found = Nearest(np.full(len(test), -1, np.float32), np.full(len(test), -1, np.float32), np.full((len(test), 2), -1))
    for number in range(shards):
        if (candidates[..., 0] == number).any():
            _keep(found, test, candidates, load(number), number)
    return found


def _look_up(test: Features, shard: Features, number: int, by_cosine: _Found, by_crop: _Found) -> None:
    usable = np.flatnonzero(shard.causes == "")
    if not len(usable):
        return
    numbers = torch.from_numpy(usable)
    gallery, whole = torch.from_numpy(shard.images[usable]).T, alignment.whole(shard.thumbnails[usable])
    parts = alignment.crops(shard.thumbnails[usable])  # [M, K, 64]
    count = max(1, _TILE // (len(usable) * parts.shape[1]))
    for start in range(0, len(test), count):
        rows = slice(start, start + count)
        by_cosine.update(torch.from_numpy(test.images[rows]) @ gallery, rows, number, numbers)
        own, own_parts = alignment.whole(test.thumbnails[rows]), alignment.crops(test.thumbnails[rows])
        inside = (own @ parts.flatten(0, 1).T).unflatten(1, parts.shape[:2]).amax(2)
        around = (own_parts.flatten(0, 1) @ whole.T).unflatten(0, own_parts.shape[:2]).amax(1)
        by_crop.update(torch.maximum(inside, around), rows, number, numbers)


def _keep(found: Nearest, test: Features, candidates: np.ndarray, shard: Features, number: int) -> None:
    """Lay samples over those of their candidates [N, C, 2] that are in this shard and alike at all; keep the best."""
    samples, ways = np.nonzero(candidates[..., 0] == number)
    pairs = np.unique(np.stack([samples, candidates[samples, ways, 1]], 1), axis=0)
    one, other = test.thumbnails[pairs[:, 0]], shard.thumbnails[pairs[:, 1]]
    alike = np.zeros(len(pairs), np.float32)
    worth = _coarse_likeness(one, other) >= _ALIKE
    alike[worth] = alignment.likeness(one[worth], other[worth])
    cosines = (test.images[pairs[:, 0]] * shard.images[pairs[:, 1]]).sum(1)
    for (sample, picture), value, cosine in zip(pairs.tolist(), alike.tolist(), cosines.tolist(), strict=True):
        if (value, cosine) > (found.likeness[sample], found.cosine[sample]):
            found.likeness[sample], found.cosine[sample] = value, cosine
            found.place[sample] = number, picture


def _coarse_likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(one), 4096):
        a, b = (part[start : start + 4096] for part in (one, other))
        pairs = ((alignment.whole(x), alignment.crops(y)) for x, y in ((a, b), (b, a)))
        scores = [torch.einsum("pd,pkd->pk", whole, parts).amax(1) for whole, parts in pairs]
        found.append(torch.maximum(*scores).numpy())
    return np.concatenate(found)
