"""The vision transformer (Dosovitskiy et al. 2021), with CLIP's additional norm before the blocks."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from cliploom.models.config import ModelConfig
from cliploom.models.transformer import Transformer


class VisionTransformer(nn.Module):
    """Image tower; the class token's output, projected, is the image's embedding.

    Args:
        config: the model's geometry.
        pooled: False leaves the projection out: the output is that of all positions.
    """

    def __init__(self, config: ModelConfig, pooled: bool = True) -> None:
        super().__init__()
        width, patch, scale = config.vision_width, config.stride, config.vision_width**-0.5
        assert isinstance(config.vision_layers, int)
        self.pooled = pooled
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(config.grid_size**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.vision_layers, config.vision_heads, activation=config.activation)
        self.ln_post = nn.LayerNorm(width)
        if pooled:
            self.proj = nn.Parameter(scale * torch.randn(width, config.embed_dim))

    def forward(self, images: Tensor, patches: Tensor | None = None) -> Tensor:
        """Embeddings [B, D] in at least fp32; without pooling the positions' features [B, L, C].

        Args:
            images: [B, 3, H, W].
            patches: int64 [B, P], the patches that are seen; all by default (Li et al. 2023, "Scaling
                Language-Image Pre-training via Masking").
        """
        x = self.conv1(images).flatten(2).transpose(1, 2) + self.positional_embedding[1:]
        if patches is not None:
            x = x.gather(1, patches[..., None].expand(-1, -1, x.shape[-1]))
        first = self.class_embedding + self.positional_embedding[0]
        x = self.ln_pre(torch.cat([first.expand(images.shape[0], 1, -1), x], dim=1))
        if not self.pooled:
            return self.ln_post(self.transformer(x))
        class_token = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        return project(self.ln_post(self.transformer(x, class_token)[:, 0]), self.proj)


def project(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight in at least fp32: embeddings in bf16 would differ by as much as neighbouring samples do."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    kind = x.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext():
        return x.to(dtype) @ weight.to(dtype)
