"""The tiled loss with hand-made gradients against the oracle's plain one with autograd."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

import oracle
from cliploom.objectives import Ranks, contrastive


@given(st.integers(1, 33), st.integers(1, 9), st.integers(1, 700), st.floats(0.5, 100), st.integers(0, 2**31))
def test_loss_and_gradients_are_the_oracles_for_any_tile(
    batch: int, width: int, tile_elements: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, text = (normalize(torch.randn(batch, width, generator=generator, dtype=torch.float64)) for _ in range(2))
    factor = torch.tensor(scale, dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (image, text, factor)]
    expected = oracle.contrastive_loss(*leaves)
    expected.backward()
    loss = contrastive(image, text, factor, Ranks([batch]), tile_elements)
    torch.testing.assert_close(loss.value, expected.detach(), rtol=1e-10, atol=1e-10)
    for ours, leaf in zip(loss[1:], leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad, rtol=1e-10, atol=1e-10)


def test_similarities_at_the_largest_scale_do_not_overflow_in_fp32() -> None:
    image = normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    loss = contrastive(image, -image, torch.tensor(100.0), Ranks([64]), tile_elements=100)
    assert all(torch.isfinite(part).all() for part in loss)
    assert loss.value > 100
