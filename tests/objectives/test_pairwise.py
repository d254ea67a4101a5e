"""Tiled losses with hand-made gradients against the oracle's plain ones with autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

import oracle
from cliploom.objectives import Ranks, contrastive, sigmoid
from reference import import_open_clip

PAIRWISE = {"contrastive": contrastive, "sigmoid": sigmoid}


def features(batch: int, width: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [normalize(torch.randn(batch, width, generator=generator, dtype=torch.float64)) for _ in range(2)]


@pytest.mark.parametrize("name", PAIRWISE)
@given(
    batch=st.integers(1, 33),
    width=st.integers(1, 9),
    tile_elements=st.integers(1, 700),
    scale=st.floats(0.5, 100),
    bias=st.floats(-12, 3),
    seed=st.integers(0, 2**31),
)
def test_loss_and_gradients_are_the_oracles_for_any_tile(
    name: str, batch: int, width: int, tile_elements: int, scale: float, bias: float, seed: int
) -> None:
    shared = torch.tensor([scale, bias] if name == "sigmoid" else [scale], dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (*features(batch, width, seed), shared)]
    expected = oracle.LOSSES[name](*leaves)
    expected.backward()
    *rows, numbers = (leaf.detach() for leaf in leaves)
    loss = PAIRWISE[name](rows, numbers, Ranks([batch]), tile_elements)
    torch.testing.assert_close(loss.value, expected.detach(), rtol=1e-10, atol=1e-10)
    for ours, leaf in zip((*loss.rows, loss.shared), leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PAIRWISE)
def test_similarities_at_the_largest_scale_do_not_overflow_in_fp32(name: str) -> None:
    image = normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    shared = torch.tensor([100.0, 0.0] if name == "sigmoid" else [100.0])
    loss = PAIRWISE[name]([image, -image], shared, Ranks([64]), tile_elements=100)
    assert all(torch.isfinite(part).all() for part in (loss.value, *loss.rows, loss.shared))
    assert loss.value > 100


def test_sigmoid_loss_is_open_clips() -> None:
    image, text = features(17, 8, seed=1)
    scale, bias = torch.tensor(9.0, dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)
    expected = import_open_clip().loss.SigLipLoss()(image, text, scale, bias)
    loss = sigmoid([image, text], torch.stack([scale, bias]), Ranks([17]))
    torch.testing.assert_close(loss.value, expected)
