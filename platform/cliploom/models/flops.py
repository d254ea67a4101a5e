"""Operations of a forward pass, counted off the geometry: a multiplication and an addition are two."""

from __future__ import annotations

from typing import NamedTuple

from cliploom.models.config import RESNET_EXPANSION, ModelConfig


class Flops(NamedTuple):
    """Of one image and of one text."""

    image: float
    text: float


def forward_flops(config: ModelConfig, text_length: int | None = None) -> Flops:
    """What the towers' matrix products and convolutions take, as the literature counts it.

    That is of all positions in all layers. The models here do less: the last layer computes the one position that is
    read, and texts are cut after their ends.

    Args:
        config: the model's geometry.
        text_length: tokens of the text; by default the context length.
    """
    length = text_length or config.context_length
    text = _transformer(config.text_width, config.text_layers, length) + 2 * config.text_width * config.embed_dim
    return Flops(_resnet(config) if config.is_resnet else _vision_transformer(config), text)


def _transformer(width: int, layers: int, length: int) -> float:
    projections = 12 * width**2  # query, key, value and output; two layers of an MLP four times as wide
    attention = 2 * length * width  # scores and weighted values
    return 2.0 * layers * length * (projections + attention)


def _vision_transformer(config: ModelConfig) -> float:
    assert isinstance(config.vision_layers, int)
    width, patches = config.vision_width, config.grid_size**2
    stem = 2.0 * patches * width * 3 * config.stride**2
    head = 2.0 * width * config.embed_dim
    return stem + _transformer(width, config.vision_layers, patches + 1) + head


def _resnet(config: ModelConfig) -> float:
    assert isinstance(config.vision_layers, tuple)
    width, side = config.vision_width, config.image_size // 2
    half = width // 2
    stem = side**2 * 9 * (3 * half + half * half + half * width)
    side //= 2
    total, channels = float(stem), width
    for stage, blocks in enumerate(config.vision_layers):
        planes, wide = width * 2**stage, 4 * width * 2**stage
        before, side = side, side if stage == 0 else side // 2
        for block in range(blocks):
            entry = before if block == 0 else side  # the stage's stride stands behind its first 3x3 convolution
            total += entry**2 * (channels * planes + 9 * planes**2) + side**2 * planes * wide
            total += side**2 * channels * wide if block == 0 else 0
            channels = wide
    return 2.0 * (total + _attention_pool(config))


def _attention_pool(config: ModelConfig) -> float:
    """Multiplications; the literature counts a query and an output of each position."""
    width, positions = config.vision_width * RESNET_EXPANSION, config.grid_size**2 + 1
    return positions * (3 * width**2 + 2 * positions * width + width * config.embed_dim)
