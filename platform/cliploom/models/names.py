"""State dicts of other implementations in OpenAI's parameter names, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cliploom.errors import InputError
from cliploom.models.config import ModelConfig

SCALARS = {"logit_scale", "logit_bias"}
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # in its checkpoints beside the parameters

# transformers' names: ours.
_OUTSIDE_BLOCKS = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_TOWERS = {"text_model.encoder.layers": "transformer", "vision_model.encoder.layers": "visual.transformer"}
_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def to_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of OpenAI's, open_clip's or transformers' CLIP in OpenAI's names.

    Raises:
        InputError: it is of one of open_clip's models with custom towers; those differ in more than names.
    """
    if any(name.startswith("vision_model.") for name in state):
        return from_transformers(state)
    if any(name.startswith(("text.", "visual.trunk.")) for name in state):
        raise InputError("these are the weights of an open_clip model with custom towers, not of a CLIP of the paper's")
    renamed = {name: tensor for name, tensor in state.items() if name not in _OPENAI_EXTRAS}
    for name in SCALARS & renamed.keys():
        if renamed[name].numel() == 1:
            renamed[name] = renamed[name].reshape(())  # [1] inside DeepSpeed
    return renamed


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of transformers' CLIPModel in OpenAI's names; a name that has no counterpart stays as it is."""
    renamed: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name.endswith(".position_ids"):  # a constant that old versions saved
            continue
        if name in _OUTSIDE_BLOCKS:
            renamed[_OUTSIDE_BLOCKS[name]] = tensor
        elif name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = tensor.T if tensor.ndim == 2 else tensor
        elif not (match := re.fullmatch(r"(.+\.layers)\.(\d+)\.(.+)\.(weight|bias)", name)) or match[1] not in _TOWERS:
            renamed[name] = tensor
        else:
            block, inner, kind = f"{_TOWERS[match[1]]}.resblocks.{match[2]}", match[3], match[4]
            if inner in _IN_BLOCK:
                renamed[f"{block}.{_IN_BLOCK[inner]}.{kind}"] = tensor
            else:
                packed.setdefault(f"{block}.attn.in_proj_{kind}", {})[inner] = tensor
    projections = [f"self_attn.{letter}_proj" for letter in "qkv"]
    for name, parts in packed.items():
        # Without one of them, or with one of another shape, the whole is missing: the caller finds that.
        shapes = {parts[projection].shape if projection in parts else None for projection in projections}
        if len(shapes) == 1 and shapes != {torch.Size()}:
            renamed[name] = torch.cat([parts[projection] for projection in projections])
    return renamed


def to_transformers(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """A state dict in OpenAI's names as transformers' CLIPModel has it.

    Raises:
        InputError: it has a part that transformers' CLIP lacks, or lacks one that it has.
    """
    _require_its_kind(config)
    names = {ours: theirs for theirs, ours in _OUTSIDE_BLOCKS.items()}
    for theirs, ours in _TOWERS.items():
        layers = config.vision_layers if ours.startswith("visual") else config.text_layers
        assert isinstance(layers, int)
        for layer in range(layers):
            for their_inner, our_inner in _IN_BLOCK.items():
                for kind in ("weight", "bias"):
                    names[f"{ours}.resblocks.{layer}.{our_inner}.{kind}"] = f"{theirs}.{layer}.{their_inner}.{kind}"
    renamed = {theirs: state[ours] for ours, theirs in names.items()}
    renamed |= {theirs: state[ours].t().contiguous() for theirs, ours in _TRANSPOSED.items()}
    for name, tensor in state.items():
        if match := re.fullmatch(r"(.+)\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
            layers_name = next(theirs for theirs, ours in _TOWERS.items() if ours == match[1])
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{layers_name}.{match[2]}.self_attn.{letter}_proj.{match[3]}"] = part.contiguous()
    return renamed


def transformers_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json from which transformers builds the same model.

    Raises:
        InputError: it has a part that transformers' CLIP lacks, or lacks one that it has.
    """
    _require_its_kind(config)
    assert isinstance(config.vision_layers, int)
    text = _tower(config, config.text_width, config.text_layers, config.text_heads)
    vision = _tower(config, config.vision_width, config.vision_layers, config.vision_heads)
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": config.embed_dim,
        "text_config": text
        | {
            "model_type": "clip_text_model",
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context_length,
            "bos_token_id": config.vocab_size - 2,
            "eos_token_id": config.vocab_size - 1,
            "pad_token_id": 0,
        },
        "vision_config": vision
        | {"model_type": "clip_vision_model", "image_size": config.image_size, "patch_size": config.patch_size},
    }


def _tower(config: ModelConfig, width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": config.embed_dim,
        "hidden_act": config.activation,
    }


def _require_its_kind(config: ModelConfig) -> None:
    if config.is_resnet:
        raise InputError("transformers has no CLIP with a ResNet: export one with a vision transformer")
    if config.logit_bias or not config.text_layers:
        raise InputError("transformers' CLIP has a text transformer and no logit bias: this model differs in that")
