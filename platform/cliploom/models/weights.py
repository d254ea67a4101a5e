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
from cliploom.models.archive import read_tensors
from cliploom.models.clip import CLIP, SIGMOID_BIAS_START
from cliploom.models.config import ACTIVATIONS, ModelConfig
from cliploom.models.names import SCALARS, to_openai, to_transformers, transformers_config
from cliploom.models.shapes import check_config, check_shapes, infer_config, resize_positions

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
KNOWN_FILES = (WEIGHTS, "model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")


def save(model: CLIP, folder: Path) -> None:
    """Write a model as `load` reads it; whole files, each over what was there."""
    save_state(model.state_dict(), model.config, folder)


def save_state(state: Mapping[str, Tensor], config: ModelConfig, folder: Path, objective: str | None = None) -> None:
    """As `save`, of a model's state dict; `objective` is what it was trained for, where that makes it no CLIP."""
    named = {"objective": objective} if objective else {}
    _write(state, {"format_version": FORMAT_VERSION, **named, "model": config.to_dict()}, folder, WEIGHTS)


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
        InputError: the file is not there, damaged, of an unknown format version, no CLIP's, or of another model than
            `config`.
    """
    file = _weights_file(path)
    said = _activation(file.parent) if file.name in KNOWN_FILES else None
    state = read_tensors(file)
    try:
        state = to_openai(state)
        found = infer_config(state, said or (config.activation if config else ACTIVATIONS[0]))
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


def _activation(folder: Path) -> str | None:
    """The activation that a config beside the weights names; None where none does.

    The geometry is read off the weights themselves, so that the two can't disagree.
    """
    config = read_config(folder)
    if objective := config.get("objective"):
        raise InputError(
            f"the weights in {folder} are of the objective {objective}, which has no text embeddings: "
            "read them with cliploom.objectives.load, and rank texts with cliploom.objectives.score"
        )
    towers = [config[name] or {} for name in ("text_config", "vision_config") if name in config]  # transformers'
    sections = [(config.get("model") or {}).get("activation")]
    sections += [tower.get("hidden_act", ACTIVATIONS[0]) for tower in towers]
    if open_clip := _read_json(folder / "open_clip_config.json"):
        sections.append("quick_gelu" if (open_clip.get("model_cfg") or {}).get("quick_gelu") else "gelu")
    named = {section for section in sections if section is not None}
    if unknown := named - set(ACTIVATIONS):
        raise InputError(
            f"the model in {folder} has the activation {min(unknown)}; {' and '.join(ACTIVATIONS)} are known"
        )
    if len(named) > 1:
        raise InputError(f"the model in {folder} has the activations {', '.join(sorted(named))}, one for each tower")
    return named.pop() if named else None


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` beside weights says; nothing where there is none.

    Raises:
        InputError: it is damaged, or of an unknown format version.
    """
    config = _read_json(folder / CONFIG)
    version = config.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{folder / CONFIG} has format version {version!r}; this version of cliploom reads {FORMAT_VERSION}"
        )
    return config


def _read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; an empty one where there is no file."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{file} can't be read: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"{file} holds no mapping")
    return config


def _add_batch_counts(state: dict[str, Tensor], model: CLIP) -> None:
    """BatchNorm's counters of batches, which older checkpoints lack and nothing reads."""
    for name in model.state_dict():
        if name.endswith(".num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=torch.int64))
