"""Where the right answer stands when a gallery is sorted by similarity, without ever holding the whole matrix."""

from __future__ import annotations

import numpy as np
import torch

_TILE = 1 << 25  # similarities held at once: 128 MiB


def first_hits(queries: np.ndarray, gallery: np.ndarray, query: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """How many gallery items stand before each query's first right answer.

    A query is a hit at k if its number is below k. Of items with equal similarity the one of the lower index stands
    first, so that copies in the gallery are never counted in a query's favour.

    Args:
        queries: float32 [Q, D], normalised.
        gallery: float32 [G, D], normalised.
        query: int64 [P], non-decreasing: the query of each right pair; every query has one at least.
        answer: int64 [P]: the gallery item of each right pair.

    Returns:
        int64 [Q], 0 where a right answer stands first of all.
    """
    columns = torch.from_numpy(gallery).T
    starts = np.searchsorted(query, np.arange(len(queries) + 1))
    rows = max(1, _TILE // max(1, len(gallery)))
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(queries), rows):
        stop = min(start + rows, len(queries))
        pairs = slice(starts[start], starts[stop])
        own = torch.from_numpy(query[pairs] - start)
        found.append(_tile(torch.from_numpy(queries[start:stop]) @ columns, own, torch.from_numpy(answer[pairs])))
    return np.concatenate(found)


def nearest(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The most similar gallery item of each query, int64 [Q]; of equal ones the lowest."""
    columns, rows = torch.from_numpy(gallery).T, max(1, _TILE // max(1, len(gallery)))
    tiles = torch.from_numpy(queries).split(rows)
    return np.concatenate([np.zeros(0, np.int64), *((tile @ columns).argmax(1).numpy() for tile in tiles)])


def top(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` most similar gallery items of a few queries: indices int64 [Q, k] and similarities float32 [Q, k]."""
    scores = torch.from_numpy(queries) @ torch.from_numpy(gallery).T
    best = scores.topk(min(k, len(gallery)), dim=1)
    return best.indices.numpy(), best.values.numpy()


def _tile(scores: torch.Tensor, query: torch.Tensor, answer: torch.Tensor) -> np.ndarray:
    """`first_hits` of the queries whose similarities [rows, G] are given."""
    right = scores[query, answer]
    best = torch.full((len(scores),), -torch.inf).scatter_reduce(0, query, right, "amax")
    is_best = right == best[query]
    first = torch.full((len(scores),), scores.shape[1])
    first = first.scatter_reduce(0, query[is_best], answer[is_best], "amin")
    before = torch.arange(scores.shape[1]) < first[:, None]
    ahead = (scores > best[:, None]) | ((scores == best[:, None]) & before)
    return ahead.sum(1).numpy()
