"""The vision transformer (Dosovitskiy et al. 2021), with CLIP's additional norm before the blocks."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from cliploom.models.config import ModelConfig
from cliploom.models.transformer import Transformer


class VisionTransformer(nn.Module):
    """Image tower; the class token's output, projected, is the image's embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, patch, scale = config.vision_width, config.stride, config.vision_width**-0.5
        assert isinstance(config.vision_layers, int)
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(config.grid_size**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.vision_layers, config.vision_heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, config.embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, D], in at least fp32."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(images.shape[0], 1, -1), patches], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return project(self.ln_post(x[:, 0]), self.proj)


def project(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight in at least fp32: embeddings in bf16 would differ by as much as neighbouring samples do."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    kind = x.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext():
        return x.to(dtype) @ weight.to(dtype)
