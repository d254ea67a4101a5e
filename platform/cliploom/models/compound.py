"""A larger or smaller model by the paper's rule: compute goes in equal parts to width, depth and resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cliploom.errors import InputError
from cliploom.models.config import HEAD_WIDTH, ModelConfig
from cliploom.models.flops import forward_flops

_RESNET_WIDTH_STEP = 16  # of a stem, as in the paper's: the text tower's width stays a multiple of its heads'


def compound(base: ModelConfig, factor: float) -> ModelConfig:
    """A model whose image tower takes about `factor` times the compute of `base`'s.

    Operations grow with depth, with the square of the width and with the square of the resolution, so that each third
    of the exponent gives the depth x factor^(1/3), width and resolution x factor^(1/6) (Radford et al. 2021, 2.4, after
    Tan and Le 2019, "EfficientNet"). Width and resolution are rounded to what the towers need; the depth makes up for
    that. The text tower's width follows the image tower's, its depth stays.

    Args:
        base: the model that is scaled.
        factor: compute of an image, in units of the base's.

    Raises:
        InputError: the factor is not above 0, or too small for this base.
    """
    if factor <= 0:
        raise InputError(f"a model can't be scaled to {factor} times its compute: give a number above 0")
    step = _RESNET_WIDTH_STEP if base.is_resnet else HEAD_WIDTH
    width = _nearest_multiple(base.vision_width * factor ** (1 / 6), step)
    text_width = _nearest_multiple(base.text_width * width / base.vision_width, HEAD_WIDTH)
    size = _nearest_multiple(base.image_size * factor ** (1 / 6), base.stride)
    wider = replace(base, vision_width=width, text_width=text_width, image_size=size)
    target = factor * forward_flops(base).image
    depths = [_with_depth(wider, base, depth) for depth in range(1, 2 + int(4 * _depth(base) * max(1, factor)))]
    best = min(depths, key=lambda config: abs(forward_flops(config).image - target))
    if not 0.5 * target < forward_flops(best).image < 2 * target:
        raise InputError(f"no model of this family has {factor} times the base's compute: choose another base")
    return best


def _depth(config: ModelConfig) -> int:
    layers = config.vision_layers
    return sum(layers) if isinstance(layers, tuple) else layers


def _with_depth(config: ModelConfig, base: ModelConfig, depth: int) -> ModelConfig:
    """`config` with so many blocks in its image tower, shared among a ResNet's stages as `base` shares them."""
    if not isinstance(base.vision_layers, tuple):
        return replace(config, vision_layers=depth)
    return replace(config, vision_layers=_shares(base.vision_layers, depth))


def _shares(weights: Sequence[int], total: int) -> tuple[int, ...]:
    """`total` in parts proportional to `weights`, none below 1 (largest remainders)."""
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [max(1, int(share)) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: exact[i] - int(exact[i]), reverse=True)
    for index in order[: max(0, total - sum(parts))]:
        parts[index] += 1
    return tuple(parts)


def _nearest_multiple(value: float, step: int) -> int:
    return max(step, step * round(value / step))
