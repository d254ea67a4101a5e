"""The transformer that both towers are made of (pre-norm, QuickGELU), in OpenAI's parameter names.

Legend of shapes: B batch, L positions, C channels, H heads, D channels of a head.

Each parameter is used in the forward of the module that owns it, so that a partition of the parameters over workers
(ZeRO stage 3) can gather it there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), written with silu: one tensor kept for the backward pass where the plain form keeps two."""
    return F.silu(1.702 * x).mul_(1 / 1.702)


def attention(query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
    """Scaled dot-product attention; all [B, H, L, D]."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _plain_attention(query, key, value, causal)
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """The formula as it stands. In bf16 the CPU's fused kernel is slow: its backward takes up to ten times as long."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if causal:
        length = query.shape[-2]
        scores = scores + scores.new_full((length, length), float("-inf")).triu_(1)
    return scores.softmax(-1) @ value


class Attention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = packed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return self.out_proj(attention(query, key, value, self.causal).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with four times the width between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.c_proj(quick_gelu(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual connection.

    The weights start as OpenAI's do: those into the residual stream are smaller the more `layers` add to it.
    """

    def __init__(self, width: int, heads: int, causal: bool, layers: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = nn.LayerNorm(width)
        residual_std = (2 * width * layers) ** -0.5
        nn.init.normal_(self.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.attn.out_proj.weight, std=residual_std)
        nn.init.zeros_(self.attn.out_proj.bias)
        nn.init.normal_(self.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.mlp.c_proj.weight, std=residual_std)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks.

    Norms take their statistics in fp32 whatever the parameters' dtype: torch's kernels do.
    """

    def __init__(self, width: int, layers: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads, causal, layers) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        for block in self.resblocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                # Nothing in a block is random, so there is no generator state to restore.
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return x
