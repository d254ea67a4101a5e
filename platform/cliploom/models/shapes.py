"""What the shapes in a state dict say about its model, and position embeddings for another resolution."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor

from cliploom.errors import InputError
from cliploom.models.config import RESNET_STRIDE, ModelConfig

_VIT_POSITIONS = "visual.positional_embedding"
_RESNET_POSITIONS = "visual.attnpool.positional_embedding"


def infer_config(state: Mapping[str, Tensor], activation: str) -> ModelConfig:
    """The config of the model that a state dict in OpenAI's names belongs to.

    Args:
        state: its tensors.
        activation: what no shape tells.

    Raises:
        InputError: the state dict is no CLIP model's.
    """
    patch_size: int | None = None
    layers: int | tuple[int, ...]
    if "visual.layer1.0.conv1.weight" in state:
        layers = tuple(_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
        width = _shape(state, "visual.layer1.0.conv1.weight", 4)[0]
    else:
        layers = _count(state, r"visual\.transformer\.resblocks\.(\d+)\.")
        width, _, _, patch_size = _shape(state, "visual.conv1.weight", 4)
    positions = _RESNET_POSITIONS if patch_size is None else _VIT_POSITIONS
    text_layers = _count(state, r"transformer\.resblocks\.(\d+)\.")
    vocab_size, text_width = _shape(state, "token_embedding.weight", 2)
    context_length = {"context_length": _shape(state, "positional_embedding", 2)[0]} if text_layers else {}
    return ModelConfig(
        embed_dim=_shape(state, "text_projection", 2)[1],
        image_size=_grid_size(_shape(state, positions, 2)[0]) * (patch_size or RESNET_STRIDE),
        vision_layers=layers,
        vision_width=width,
        patch_size=patch_size,
        text_width=text_width,
        text_layers=text_layers,
        vocab_size=vocab_size,
        activation=activation,
        logit_bias="logit_bias" in state,
        **context_length,
    )


def check_config(found: ModelConfig, wanted: ModelConfig) -> None:
    """Check that weights of the model `found` can become `wanted`: that they differ in image_size and logit_bias alone.

    Raises:
        InputError: names the first field in which they differ.
    """
    for field in fields(ModelConfig):
        held, due = getattr(found, field.name), getattr(wanted, field.name)
        if field.name not in ("image_size", "logit_bias") and held != due:
            raise InputError(f"its {field.name} is {held} where the model asked for has {due}")


def resize_positions(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The state dict with the image tower's position embeddings interpolated (bicubic, as open_clip's) to the config's.

    Args:
        state: in OpenAI's names, of a model that differs from `config` in image_size at most.
        config: of the model wanted.
    """
    name = _RESNET_POSITIONS if config.is_resnet else _VIT_POSITIONS
    first, grid = state[name][:1], state[name][1:].float()
    side = _grid_size(len(grid) + 1)
    if side == config.grid_size:
        return dict(state)
    planes = grid.T.reshape(1, -1, side, side)
    size = (config.grid_size, config.grid_size)
    resized = F.interpolate(planes, size=size, mode="bicubic", antialias=True, align_corners=False)
    return {**state, name: torch.cat([first, resized.flatten(2)[0].T.to(first.dtype)])}


def check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that a state dict holds what a model expects, no more and no less.

    Raises:
        InputError: names the first tensor that is missing, unknown or of another shape.
    """
    for name, tensor in expected.items():
        if name not in state:
            raise _missing(name, state)
        if state[name].shape != tensor.shape:
            raise InputError(f"{name} has shape {list(state[name].shape)} where {list(tensor.shape)} is due")
        if state[name].is_floating_point() != tensor.is_floating_point():
            raise InputError(f"{name} is of type {state[name].dtype}, which is no weight's")
    if unknown := [name for name in state if name not in expected]:
        raise InputError(f"{unknown[0]} is no part of the model")


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise _missing(name, state)
    shape = tuple(state[name].shape)
    if len(shape) != dimensions:
        raise InputError(f"{name} has shape {list(shape)} where {dimensions} dimensions are due")
    return shape


def _missing(name: str, names: Iterable[str]) -> InputError:
    return InputError(f"{name} is missing; the first names there are {', '.join(sorted(names)[:3])}")


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """The number of blocks whose names match."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _grid_size(positions: int) -> int:
    side = math.isqrt(max(0, positions - 1))
    if side**2 + 1 != positions:
        raise InputError(f"{positions} image positions are no square grid and a class token")
    return side
