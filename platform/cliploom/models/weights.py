"""Models on disk: our own format, and those of OpenAI, open_clip and transformers.

A model of ours is a folder of `weights.safetensors` (parameters in OpenAI's names) and `config.json` (format version
and geometry).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cliploom.errors import InputError
from cliploom.models import sidecar
from cliploom.models.archive import read_tensors
from cliploom.models.clip import CLIP, SIGMOID_BIAS_START
from cliploom.models.config import ACTIVATIONS, ModelConfig
from cliploom.models.names import SCALARS, to_openai, to_transformers, transformers_config
from cliploom.models.shapes import check_config, check_shapes, infer_config, resize_positions

WEIGHTS, CONFIG = "weights.safetensors", sidecar.CONFIG
KNOWN_FILES = (  # a config file beside one of these is its own
    WEIGHTS,
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)


def save(model: CLIP, folder: Path) -> None:
    """Write a model as `load` reads it; whole files, each over what was there."""
    save_state(model.state_dict(), model.config, folder)


def save_state(state: Mapping[str, Tensor], config: ModelConfig, folder: Path, objective: str | None = None) -> None:
    """As `save`, of a model's state dict; `objective` is what it was trained for, where that makes it no CLIP."""
    named = {"objective": objective} if objective else {}
    _write(state, {"format_version": sidecar.FORMAT_VERSION, **named, "model": config.to_dict()}, folder, WEIGHTS)


def save_transformers(model: CLIP, folder: Path) -> None:
    """Write a model as transformers' `CLIPModel.from_pretrained(folder)` reads it.

    Raises:
        InputError: it has a part that transformers' CLIP lacks, or lacks one that it has.
    """
    config = transformers_config(model.config)
    _write(to_transformers(model.state_dict(), model.config), config, folder, "model.safetensors")


def load(path: Path, config: ModelConfig | None = None) -> CLIP:
    """A model from a file or folder of weights, in fp32 on the CPU.

    Args:
        path: a safetensors file, a state dict or checkpoint of torch.save, or a TorchScript archive, with OpenAI's,
            open_clip's or transformers' parameter names; or a folder with such a file. Code in it is never run.
        config: what model it is to be; by default what the shapes say. It may ask for another resolution than the
            weights': position embeddings are interpolated then. It may ask for a logit bias that they lack: that is
            the sigmoid loss's start. The activation is what a config file beside the weights says; without one, it is
            that of `config`, or QuickGELU.

    Raises:
        InputError: the file is not there, damaged, of an unknown format version, no CLIP's, of other heads than ours
            (or so wide, and without a config, that it may be), or of another model than `config`.
    """
    file = _weights_file(path)
    told = sidecar.read(file.parent) if file.name in KNOWN_FILES else sidecar.Told()
    state = read_tensors(file)
    try:
        state = to_openai(state)
        found = infer_config(state, told.activation or (config.activation if config else ACTIVATIONS[0]))
        sidecar.check_heads(told, found)
        if config is None:
            sidecar.require_heads(told, found)
        config = _agreed(found, config) if config else found
        if config.logit_bias:
            state.setdefault("logit_bias", torch.tensor(SIGMOID_BIAS_START))
        state = resize_positions(state, config)
        with torch.device("meta"):
            model = CLIP(config)
        _add_batch_counts(state, model)
        check_shapes(state, model.state_dict())
    except InputError as error:
        raise InputError(f"the weights file {file} does not fit: {error}") from None
    model.to_empty(device="cpu").load_state_dict(state)
    return model


def _agreed(found: ModelConfig, wanted: ModelConfig) -> ModelConfig:
    """The wanted config with what the weights alone can say."""
    wanted = replace(wanted, activation=found.activation, logit_bias=found.logit_bias or wanted.logit_bias)
    check_config(found, wanted)
    return wanted


def _write(state: Mapping[str, Tensor], config: dict[str, Any], folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    for scalar in SCALARS & tensors.keys():  # [1] inside DeepSpeed
        tensors[scalar] = tensors[scalar].reshape(())
    save_file(tensors, folder / f".{name}", metadata={"format": "pt"})
    (folder / f".{CONFIG}").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for written in (name, CONFIG):
        (folder / f".{written}").replace(folder / written)


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in KNOWN_FILES:
        if (path / name).is_file():
            return path / name
    raise InputError(f"the folder {path} holds no weights: none of {', '.join(KNOWN_FILES)}")


def _add_batch_counts(state: dict[str, Tensor], model: CLIP) -> None:
    """BatchNorm's counters of batches, which older checkpoints lack and nothing reads."""
    for name in model.state_dict():
        if name.endswith(".num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=torch.int64))
