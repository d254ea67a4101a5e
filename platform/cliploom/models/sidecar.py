"""What a config file beside weights says of them that no shape tells: the activation and the number of heads.

The rest of the geometry is read off the weights themselves, so that the two can't disagree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cliploom.errors import InputError
from cliploom.models.config import ACTIVATIONS, HEAD_WIDTH, RESNET_EXPANSION, ModelConfig

FORMAT_VERSION = 1
CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
_WIDEST = 1024  # channels of the widest vision transformer of which all that is published has heads of 64
_HEADS = {"vision": 12, "text": 8}  # of transformers' towers whose config names none


class Told(NamedTuple):
    """What is said; None is not said."""

    activation: str | None = None
    vision_heads: int | None = None
    text_heads: int | None = None


def read(folder: Path) -> Told:
    """What the config files in `folder` say: our own, transformers', or open_clip's.

    Raises:
        InputError: one is damaged, or tells of a model that is none of ours.
    """
    config = read_config(folder)
    if objective := config.get("objective"):
        raise InputError(
            f"the weights in {folder} are of the objective {objective}, which has no text embeddings: "
            "read them with cliploom.objectives.load, and rank texts with cliploom.objectives.score"
        )
    ours = Told((config.get("model") or {}).get("activation"))
    towers = {name: config[f"{name}_config"] or {} for name in _HEADS if f"{name}_config" in config}
    theirs = [Told(tower.get("hidden_act", ACTIVATIONS[0])) for tower in towers.values()]
    heads = {f"{name}_heads": tower.get("num_attention_heads", _HEADS[name]) for name, tower in towers.items()}
    open_clip = _open_clip(_read_json(folder / OPEN_CLIP_CONFIG).get("model_cfg"))
    return open_clip._replace(activation=_only(folder, [ours, *theirs, open_clip]), **heads)


def check_heads(told: Told, found: ModelConfig) -> None:
    """Check that a model has the heads that are told of.

    Raises:
        InputError: it has others.
    """
    for tower, said, has in (
        ("image", told.vision_heads, found.vision_heads),
        ("text", told.text_heads, found.text_heads),
    ):
        if said is not None and said != has:
            raise InputError(f"its {tower} tower has {said} heads, cliploom's has {has} of {HEAD_WIDTH} channels")


def require_heads(told: Told, found: ModelConfig) -> None:
    """Check that a model that may well have other heads than ours is told of.

    Raises:
        InputError: it isn't.
    """
    if told == Told() and not found.is_resnet and found.vision_width > _WIDEST:
        raise InputError(
            f"its image tower's {found.vision_width} channels may be parted into heads of more than {HEAD_WIDTH}, "
            f"which no shape tells: put the {CONFIG} or {OPEN_CLIP_CONFIG} that it was published with beside it, and "
            "give it its published name"
        )


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


def _open_clip(config: Mapping[str, Any] | None) -> Told:
    """What open_clip's `model_cfg` says, with open_clip's defaults."""
    if config is None:
        return Told()
    vision, text = config.get("vision_cfg"), config.get("text_cfg")
    return Told(
        "quick_gelu" if config.get("quick_gelu") else "gelu",
        None if vision is None else _open_clip_heads(vision),
        None if text is None else text.get("heads", 8),
    )


def _open_clip_heads(vision: Mapping[str, Any]) -> int:
    expansion = RESNET_EXPANSION if isinstance(vision.get("layers"), list) else 1
    return int(vision.get("width", 768) * expansion // vision.get("head_width", HEAD_WIDTH))


def _only(folder: Path, told: list[Told]) -> str | None:
    """The one activation of what is told."""
    named = {one.activation for one in told if one.activation is not None}
    if unknown := named - set(ACTIVATIONS):
        raise InputError(
            f"the model in {folder} has the activation {min(unknown)}; {' and '.join(ACTIVATIONS)} are known"
        )
    if len(named) > 1:
        raise InputError(f"the model in {folder} has the activations {', '.join(sorted(named))}, one for each tower")
    return named.pop() if named else None


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
