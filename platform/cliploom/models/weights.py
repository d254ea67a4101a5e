"""Models on disk: our own format, and those of OpenAI, open_clip and transformers.

A model of ours is a folder of `weights.safetensors` (parameters in OpenAI's names) and `config.json` (format version
and geometry).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cliploom.errors import InputError
from cliploom.models.archive import read_tensors
from cliploom.models.clip import CLIP
from cliploom.models.config import ModelConfig
from cliploom.models.names import to_openai, to_transformers, transformers_config
from cliploom.models.shapes import check_config, check_shapes, infer_config, resize_positions

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
_KNOWN_FILES = (WEIGHTS, "model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")


def save(model: CLIP, folder: Path) -> None:
    """Write a model as `load` reads it; whole files, each over what was there."""
    save_state(model.state_dict(), model.config, folder)


def save_state(state: Mapping[str, Tensor], config: ModelConfig, folder: Path) -> None:
    """As `save`, of a model's state dict."""
    _write(state, {"format_version": FORMAT_VERSION, "model": config.to_dict()}, folder, WEIGHTS)


def save_transformers(model: CLIP, folder: Path) -> None:
    """Write a model as transformers' `CLIPModel.from_pretrained(folder)` reads it.

    Raises:
        InputError: the image tower is a ResNet, which transformers' CLIP lacks.
    """
    config = transformers_config(model.config)
    _write(to_transformers(model.state_dict(), model.config), config, folder, "model.safetensors")


def load(path: Path, config: ModelConfig | None = None) -> CLIP:
    """A model from a file or folder of weights, in fp32 on the CPU.

    Args:
        path: a safetensors file, a state dict or checkpoint of torch.save, or a TorchScript archive, with OpenAI's,
            open_clip's or transformers' parameter names; or a folder with such a file. Code in it is never run.
            Models of open_clip's without QuickGELU can't be told apart by their weights; where its config says so they
            are refused.
        config: what model it is to be; by default what the shapes say. It may ask for another resolution than the
            weights': position embeddings are interpolated then.

    Raises:
        InputError: the file is not there, damaged, of an unknown format version, no CLIP's, or of another model than
            `config`.
    """
    file = _weights_file(path)
    if file.name in _KNOWN_FILES:
        _check_configs(file.parent)
    state = read_tensors(file)
    try:
        state = to_openai(state)
        found = infer_config(state)
        config = config or found
        check_config(found, config)
        state = resize_positions(state, config)
        with torch.device("meta"):
            model = CLIP(config)
        _add_batch_counts(state, model)
        check_shapes(state, model.state_dict())
    except InputError as error:
        raise InputError(f"the weights file {file} does not fit: {error}") from None
    model.to_empty(device="cpu").load_state_dict(state)
    return model


def _write(state: Mapping[str, Tensor], config: dict[str, Any], folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    if "logit_scale" in tensors:
        tensors["logit_scale"] = tensors["logit_scale"].reshape(())
    save_file(tensors, folder / f".{name}", metadata={"format": "pt"})
    (folder / f".{CONFIG}").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for written in (name, CONFIG):
        (folder / f".{written}").replace(folder / written)


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in _KNOWN_FILES:
        if (path / name).is_file():
            return path / name
    raise InputError(f"the folder {path} holds no weights: none of {', '.join(_KNOWN_FILES)}")


def _check_configs(folder: Path) -> None:
    """Refuse what the configs beside the weights say that this version can't do.

    The geometry is read off the weights themselves, so that the two can't disagree.
    """
    config = _read_config(folder / CONFIG)
    version = config.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{folder / CONFIG} has format version {version!r}; this version of cliploom reads {FORMAT_VERSION}"
        )
    towers = (config.get(name) or {} for name in ("text_config", "vision_config"))  # transformers'
    activations = {tower.get("hidden_act", "quick_gelu") for tower in towers}
    if open_clip := _read_config(folder / "open_clip_config.json"):
        activations.add("quick_gelu" if (open_clip.get("model_cfg") or {}).get("quick_gelu") else "gelu")
    if other := activations - {"quick_gelu"}:
        raise InputError(f"the model in {folder} has the activation {min(other)}; only quick_gelu is known")


def _read_config(file: Path) -> dict[str, Any]:
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
