"""The workers that share a global batch, and what they tell each other about it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """One worker's view of all workers: which it is, and how many rows of the global batch each holds.

    Without a process group it is the only one, and every operation is the identity.

    Args:
        rows: rows of the global batch on each rank.
        rank: this worker's number.
    """

    def __init__(self, rows: Sequence[int], rank: int = 0) -> None:
        self.rows = list(rows)
        self.rank = rank
        self.total = sum(self.rows)
        self.start = sum(self.rows[:rank])

    @property
    def own(self) -> slice:
        """This worker's rows of the global batch."""
        return slice(self.start, self.start + self.rows[self.rank])

    def gather(self, local: Tensor) -> Tensor:
        """The rows [rows, D] of all ranks in order, [total, D]."""
        if len(self.rows) == 1:
            return local
        most = max(self.rows)
        padded = local.new_zeros(len(self.rows) * most, *local.shape[1:])
        dist.all_gather_into_tensor(padded, _pad(local.contiguous(), most))
        if min(self.rows) == most:
            return padded
        return torch.cat([padded[r * most : r * most + rows] for r, rows in enumerate(self.rows)])

    def scatter_sum(self, partial: Tensor) -> Tensor:
        """This worker's rows [rows, D] of the sum over ranks of `partial` [total, D]."""
        if len(self.rows) == 1:
            return partial
        if dist.get_backend() == "gloo":  # its reduce-scatter is an all-reduce inside
            dist.all_reduce(partial)
            return partial[self.own]
        most = max(self.rows)
        padded = torch.cat([_pad(part, most) for part in partial.split(self.rows)])
        own = partial.new_empty(most, *partial.shape[1:])
        dist.reduce_scatter_tensor(own, padded)
        return own[: self.rows[self.rank]]

    def stack(self, local: Tensor) -> Tensor:
        """Every rank's `local`, stacked: [ranks, ...]."""
        if len(self.rows) == 1:
            return local[None]
        stacked = local.new_empty(len(self.rows), *local.shape)
        dist.all_gather_into_tensor(stacked, local[None].contiguous())
        return stacked

    def sum(self, local: Tensor) -> Tensor:
        """The sum of `local` over ranks."""
        if len(self.rows) > 1:
            local = local.clone()
            dist.all_reduce(local)
        return local


def _pad(rows: Tensor, count: int) -> Tensor:
    if len(rows) == count:
        return rows
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])
