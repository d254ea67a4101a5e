"""What a loss of the global batch gives a worker, and its tiles of the similarity matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

_CPU_TILE, _GPU_TILE = 2**22, 2**26  # elements: on a CPU a tile stays in the cache, a GPU wants large products


class GlobalLoss(NamedTuple):
    """The loss of the global batch, and its gradients as far as they are this worker's.

    Summed over workers, `rows` make the gradients of all the network's rows, `shared` that of its shared numbers.
    """

    value: Tensor  # [], the same on every rank
    rows: tuple[Tensor, ...]  # [b, ...], gradient of each output that has a row a sample
    shared: Tensor  # [s], this worker's share


def tiles(image_bd: Tensor, columns: int, elements: int | None) -> Iterator[slice]:
    """The rows of each tile of this worker's part of the similarity matrix.

    Args:
        image_bd: whose rows are cut.
        columns: of the matrix.
        elements: most of a tile, or one row; by default as many as suit the device.
    """
    most = elements or (_CPU_TILE if image_bd.device.type == "cpu" else _GPU_TILE)
    height = max(1, most // columns)
    for start in range(0, len(image_bd), height):
        yield slice(start, min(start + height, len(image_bd)))
