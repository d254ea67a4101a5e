"""Test samples that training data hold too, perhaps cropped, scaled, compressed or recoloured.

For each test sample the nearest training picture is looked up by the cosine of the model's image embeddings and by the
distance of perceptual hashes. Every pair is compared, a training shard at a time, so that memory stays that of a shard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from cliploom.evaluation.store import Features

_TILE = 1 << 23  # pairs compared at once


@dataclass(frozen=True)
class Nearest:
    """For each of N test samples, the nearest training pictures."""

    cosine: np.ndarray  # float32 [N]
    by_cosine: np.ndarray  # int64 [N, 2]: shard, and number in it
    distance: np.ndarray  # int64 [N], of 64 bits
    by_distance: np.ndarray  # int64 [N, 2]

    def duplicates(self, min_cosine: float, max_distance: int) -> np.ndarray:
        """Which samples are near enough by either measure, bool [N]."""
        return (self.cosine >= min_cosine) | (self.distance <= max_distance)


def nearest(test: Features, shards: Iterable[Features]) -> Nearest:
    """Compare test samples with the usable pictures of training shards.

    Args:
        test: N samples, all usable.
        shards: in their order.
    """
    count = len(test)
    found = Nearest(
        np.full(count, -1, np.float32),
        np.full((count, 2), -1),
        np.full(count, 65),
        np.full((count, 2), -1),
    )
    for number, shard in enumerate(shards):
        usable = np.flatnonzero(shard.causes == "")
        if len(usable):
            _update(found, test, shard.images[usable], shard.hashes[usable], number, usable)
    return found


def _update(
    found: Nearest, test: Features, images: np.ndarray, hashes: np.ndarray, shard: int, numbers: np.ndarray
) -> None:
    """Take over what is nearer than what was found before; of equally near ones the first stays."""
    gallery = torch.from_numpy(images).T
    rows = max(1, _TILE // len(numbers))
    for start in range(0, len(test), rows):
        part = slice(start, start + rows)
        cosine, best = (torch.from_numpy(test.images[part]) @ gallery).max(1)
        _replace(found.cosine[part], found.by_cosine[part], cosine.numpy(), numbers[best.numpy()], shard, 1)
        apart = np.bitwise_count(test.hashes[part, None] ^ hashes[None])
        least = apart.argmin(1)
        distance = np.take_along_axis(apart, least[:, None], 1)[:, 0].astype(np.int64)
        _replace(found.distance[part], found.by_distance[part], distance, numbers[least], shard, -1)


def _replace(
    best: np.ndarray, places: np.ndarray, values: np.ndarray, numbers: np.ndarray, shard: int, sign: int
) -> None:
    nearer = sign * values > sign * best
    best[nearer] = values[nearer]
    places[nearer, 0] = shard
    places[nearer, 1] = numbers[nearer]
