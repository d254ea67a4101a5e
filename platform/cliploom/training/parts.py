"""A worker's tensors as a file of safetensors, without a copy of them in memory.

The format is eight bytes of length, a JSON header, and the tensors one after the other. `safetensors.torch.save` makes
it in memory, which takes twice the state's size and holds the interpreter up, and training with it, for the copying.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int32: "I32", torch.int64: "I64"}
_ALIGNMENT = 8  # of the first tensor


def buffers(tensors: Mapping[str, Tensor]) -> list[memoryview]:
    """The bytes of the file, in pieces that are views of `tensors`, which lie whole on the CPU."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)  # so that all are aligned
    header: dict[str, object] = {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    views = (tensor.detach().flatten().numpy().view(np.uint8).data for _, tensor in ordered)
    return [memoryview(struct.pack("<Q", len(text)) + text), *views]
