"""The transformer that both towers are made of (pre-norm, QuickGELU), in OpenAI's parameter names.

Legend of shapes: B batch, L positions, C channels, H heads, D channels of a head.

Each parameter is used in the forward of the module that owns it, so that a partition of the parameters over workers
(ZeRO stage 3) can gather it there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x)."""
    if not x.requires_grad or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _scaled_silu(x * 1.702)
    result: Tensor = _QuickGELU.apply(x)
    return result


def _scaled_silu(scaled: Tensor) -> Tensor:
    return F.silu(scaled).mul_(1 / 1.702)


class _QuickGELU(torch.autograd.Function):
    """`quick_gelu` as silu(y) / 1.702 of y = 1.702 x, whose derivative by x is silu's by y.

    That keeps one tensor for the backward pass, which goes over memory once: a tenth of a step on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = x * 1.702
        ctx.save_for_backward(scaled)
        return _scaled_silu(scaled)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient: Tensor = torch.ops.aten.silu_backward(gradients[0], *ctx.saved_tensors)
        return gradient


ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


def attention(query: Tensor, key: Tensor, value: Tensor, causal: bool = False, visible: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; query [B, H, M, D], key and value [B, H, L, D].

    Args:
        query: what asks.
        key: what is compared with it.
        value: what is averaged.
        causal: whether position i sees positions up to i alone (M = L then).
        visible: bool [B, 1, M, L], what is seen; all of it by default.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _plain_attention(query, key, value, causal, visible)
    return F.scaled_dot_product_attention(query, key, value, visible, is_causal=causal)


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool, visible: Tensor | None) -> Tensor:
    """The formula as it stands. In bf16 the CPU's fused kernel is slow: its backward takes up to ten times as long."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if causal:
        length = query.shape[-2]
        scores = scores + scores.new_full((length, length), float("-inf")).triu_(1)
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    return scores.softmax(-1) @ value


class Attention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """[B, L, C] -> [B, L, C]; with `pooled`, int64 [B], the output at that position of each alone, [B, 1, C]."""
        if pooled is None:
            packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
            query, key, value = self._split(packed, 3)
            return self.out_proj(attention(query, key, value, self.causal).transpose(1, 2).flatten(2))
        sizes = [x.shape[-1], 2 * x.shape[-1]]
        weights, biases = self.in_proj_weight.split(sizes), self.in_proj_bias.split(sizes)
        [query] = self._split(F.linear(at(x, pooled), weights[0], biases[0]), 1)
        key, value = self._split(F.linear(x, weights[1], biases[1]), 2)
        visible = None
        if self.causal:
            visible = (torch.arange(x.shape[1], device=x.device) <= pooled[:, None])[:, None, None]
        return self.out_proj(attention(query, key, value, visible=visible).transpose(1, 2).flatten(2))

    def _split(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, L, parts x C] -> `parts` of [B, H, L, D]."""
        return packed.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def at(x: Tensor, positions: Tensor) -> Tensor:
    """One position of each row: x [B, L, C], int64 [B] -> [B, 1, C]."""
    return x[torch.arange(x.shape[0], device=x.device), positions][:, None]


class MLP(nn.Module):
    """Two linear layers with four times the width between them."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self.activation = ACTIVATION[activation]

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.c_proj(self.activation(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual connection.

    The weights start as OpenAI's do: those into the residual stream are smaller the more `layers` add to it.
    """

    def __init__(self, width: int, heads: int, causal: bool, layers: int, activation: str) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, activation)
        self.ln_2 = nn.LayerNorm(width)
        residual_std = (2 * width * layers) ** -0.5
        nn.init.normal_(self.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.attn.out_proj.weight, std=residual_std)
        nn.init.zeros_(self.attn.out_proj.bias)
        nn.init.normal_(self.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.mlp.c_proj.weight, std=residual_std)

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """[B, L, C] -> [B, L, C]; with `pooled`, int64 [B], the output at that position of each alone, [B, 1, C]."""
        y = self.attn(self.ln_1(x), pooled)
        x = y + (x if pooled is None else at(x, pooled))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks.

    Norms take their statistics in fp32 whatever the parameters' dtype: torch's kernels do.
    """

    def __init__(
        self, width: int, layers: int, heads: int, causal: bool = False, activation: str = "quick_gelu"
    ) -> None:
        super().__init__()
        self.recompute = False
        blocks = (ResidualAttentionBlock(width, heads, causal, layers, activation) for _ in range(layers))
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """[B, L, C] -> [B, L, C].

        Args:
            x: the positions' features.
            pooled: int64 [B], the only position of each row whose output is wanted; the output is [B, 1, C] then, and
                the last block leaves out what only the others need.
        """
        last = len(self.resblocks) - 1
        for number, block in enumerate(self.resblocks):
            x = run_block(block, self.recompute, x, pooled if number == last else None)
        return x


def run_block(block: nn.Module, recompute: bool, *inputs: Tensor | None) -> Tensor:
    """A block's output; with `recompute`, the backward pass computes it again instead of keeping what is inside."""
    if recompute and torch.is_grad_enabled():
        # Nothing in a block is random, so there is no generator state to restore.
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return block(*inputs)


def checkpoint_activations(model: nn.Module) -> None:
    """Have the model's towers keep their blocks' inputs only, and compute the rest again in the backward pass."""
    for module in model.modules():
        if hasattr(module, "recompute"):
            module.recompute = True  # type: ignore[assignment]


def compile_blocks(model: nn.Module) -> None:
    """Have transformer blocks compiled by torch when they are first used; names of parameters stay."""
    for module in model.modules():
        for block in getattr(module, "resblocks", ()):
            block.compile()
