"""Files of safetensors that are written from views of the tensors."""

from __future__ import annotations

import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cliploom.training import parts

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.int32, torch.int64])
TENSORS = st.builds(
    lambda shape, dtype: torch.arange(torch.tensor(shape).prod().item()).view(shape).to(dtype),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    DTYPES,
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), TENSORS, max_size=6))
def test_safetensors_reads_what_was_there(tensors: dict[str, Tensor]) -> None:
    loaded = safetensors.torch.load(b"".join(parts.buffers(tensors)))
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_nothing_is_copied() -> None:
    tensor = torch.zeros(1000)
    pieces = parts.buffers({"a": tensor})
    tensor.fill_(1)
    assert torch.equal(safetensors.torch.load(b"".join(pieces))["a"], torch.ones(1000))
