"""Models of this library and of open_clip that hold the same random weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from cliploom.models import ModelConfig
from cliploom.models.config import HEAD_WIDTH
from reference import import_open_clip

END = 49407


def random_open_clip_model(config: ModelConfig) -> Any:
    """open_clip's model of this geometry, with its OpenAI-style activation, random weights and in evaluation mode."""
    model = import_open_clip().model
    vision = model.CLIPVisionCfg(
        image_size=config.image_size,
        layers=config.vision_layers,
        width=config.vision_width,
        patch_size=config.patch_size,
        head_width=min(HEAD_WIDTH, config.feature_width),
    )
    text = model.CLIPTextCfg(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_heads,
        layers=config.text_layers,
    )
    bias = {"init_logit_bias": 0.0} if config.logit_bias else {}
    quick = config.activation == "quick_gelu"
    with torch.device("meta"):  # its own initialisation takes longer than all the rest
        made = model.CLIP(config.embed_dim, vision_cfg=vision, text_cfg=text, quick_gelu=quick, **bias).eval()
    made.to_empty(device="cpu")
    made.attn_mask = torch.full((config.context_length, config.context_length), float("-inf")).triu_(1)
    randomize(made)
    return made


def randomize(model: nn.Module) -> None:
    """Draw all weights: gains of 1 and biases of 0 would hide mistakes in their use."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if re.search(r"layer\d\.\d+\.bn3\.weight$", name):  # small, or what dozens of blocks add up to grows large
                tensor.uniform_(0.1, 0.3, generator=generator)
            elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif not tensor.is_floating_point():
                tensor.zero_()
            elif tensor.ndim == 0:
                tensor.fill_(2.0)
            else:
                spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.2
                tensor.uniform_(-1.7 * spread, 1.7 * spread, generator=generator)


def captions(count: int, seed: int = 0, longest: int = 77) -> Tensor:
    """Random token ids int64 [count, 77] of lengths 2 to `longest`: start, words, end, zeros."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, END - 1, (count, 77), generator=generator)
    lengths = torch.randint(2, longest + 1, (count,), generator=generator)
    tokens[:, 0] = END - 1
    columns = torch.arange(77)
    tokens[columns == lengths[:, None] - 1] = END
    tokens[columns >= lengths[:, None]] = 0
    return tokens


def pictures(config: ModelConfig, count: int, seed: int = 0) -> Tensor:
    """Random normalised images, float32 [count, 3, H, W]."""
    size = config.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
