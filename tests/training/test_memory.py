"""Want of memory is told from other errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cliploom.training import memory


def test_want_of_memory_of_host_and_device() -> None:
    with pytest.raises(RuntimeError) as host:
        torch.empty(2**55)
    with pytest.raises(MemoryError) as array:
        np.empty(2**55)
    device = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert all(memory.is_short(error) for error in (host.value, array.value, device))
    assert not memory.is_short(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_kernel_s_count_is_a_number() -> None:
    assert memory.kernel_kills() >= 0
