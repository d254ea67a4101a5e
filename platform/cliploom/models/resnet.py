"""CLIP's modified ResNet: a stem of three convolutions, anti-aliased strides, attention pooling.

The stem is ResNet-D's (He et al. 2019, "Bag of Tricks"), strides are average pools as in Zhang 2019 ("Making
Convolutional Networks Shift-Invariant Again"), and one attention layer queried by the mean takes the place of the
global average pool.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict

import torch
from torch import Tensor, nn

from cliploom.models.config import ModelConfig
from cliploom.models.norm import GroupedBatchNorm2d
from cliploom.models.transformer import attention, run_block

EXPANSION = 4  # of a bottleneck's channels


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a residual connection; all of stride 1, an average pool does the rest."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        out = EXPANSION * channels
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = GroupedBatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = GroupedBatchNorm2d(channels)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, out, 1, bias=False)
        self.bn3 = GroupedBatchNorm2d(out)
        nn.init.zeros_(self.bn3.weight)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels_in != out:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            convolution = nn.Conv2d(channels_in, out, 1, bias=False)
            self.downsample = nn.Sequential(OrderedDict({"-1": pool, "0": convolution, "1": GroupedBatchNorm2d(out)}))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, 4 C, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(self.avgpool(y)))
        return self.relu(y.add_(self.downsample(x)))


class AttentionPool2d(nn.Module):
    """One attention layer whose only query is the mean of the feature map."""

    def __init__(self, grid_size: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(grid_size**2 + 1, width) * width**-0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D]."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding
        query, key, value = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        pooled = attention(self._split(query), self._split(key), self._split(value))
        return self.c_proj(pooled.flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, H, L, C / H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ModifiedResNet(nn.Module):
    """Image tower.

    Args:
        config: the model's geometry.
        pooled: False leaves the attention pooling out: the output is that of all positions.
    """

    def __init__(self, config: ModelConfig, pooled: bool = True) -> None:
        super().__init__()
        width = config.vision_width
        self.pooled, self.recompute = pooled, False
        assert isinstance(config.vision_layers, tuple)
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = GroupedBatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = GroupedBatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = GroupedBatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        self.relu = nn.ReLU(inplace=True)
        channels = width
        stages = []
        for stage, blocks in enumerate(config.vision_layers):
            planes = width * 2**stage
            stages.append(_stage(channels, planes, blocks, stride=1 if stage == 0 else 2))
            channels = EXPANSION * planes
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        if pooled:
            self.attnpool = AttentionPool2d(
                config.grid_size, config.feature_width, config.vision_heads, config.embed_dim
            )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> embeddings [B, D]; without pooling the positions' features [B, L, C]."""
        # Convolutions follow the layout of what they are given, and are faster channels-last, on CPU and GPU alike.
        x = images.contiguous(memory_format=torch.channels_last)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(self.bn3(self.conv3(x)))
        x = self.avgpool(x)
        for block in itertools.chain(self.layer1, self.layer2, self.layer3, self.layer4):
            x = run_block(block, self.recompute, x)
        return self.attnpool(x) if self.pooled else x.flatten(2).transpose(1, 2)


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(EXPANSION * channels, channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(channels_in, channels, stride), *rest)
