"""Models by name.

Names are the field's: the tower's size, its patch size, and its resolution where that is not 224 pixels. `mu`, `Ti` and
`S` stand for the widths that the literature on vision transformers gives them (32, 192, 384).
"""

from __future__ import annotations

import difflib

from cliploom.errors import InputError
from cliploom.models.config import ModelConfig


def _model(
    embed_dim: int, image_size: int, vision: tuple[int | tuple[int, ...], int, int | None], text: tuple[int, int]
) -> ModelConfig:
    """A config from `vision` = (layers, width, patch size) and `text` = (layers, width)."""
    vision_layers, vision_width, patch_size = vision
    text_layers, text_width = text
    return ModelConfig(
        embed_dim=embed_dim,
        image_size=image_size,
        vision_layers=vision_layers,
        vision_width=vision_width,
        patch_size=patch_size,
        text_layers=text_layers,
        text_width=text_width,
    )


PRESETS: dict[str, ModelConfig] = {
    # Radford et al. 2021, tables 19 and 20.
    "RN50": _model(1024, 224, vision=((3, 4, 6, 3), 64, None), text=(12, 512)),
    "RN101": _model(512, 224, vision=((3, 4, 23, 3), 64, None), text=(12, 512)),
    "RN50x4": _model(640, 288, vision=((4, 6, 10, 6), 80, None), text=(12, 640)),
    "RN50x16": _model(768, 384, vision=((6, 8, 18, 8), 96, None), text=(12, 768)),
    "RN50x64": _model(1024, 448, vision=((3, 15, 36, 10), 128, None), text=(12, 1024)),
    "ViT-B-32": _model(512, 224, vision=(12, 768, 32), text=(12, 512)),
    "ViT-B-16": _model(512, 224, vision=(12, 768, 16), text=(12, 512)),
    "ViT-L-14": _model(768, 224, vision=(24, 1024, 14), text=(12, 768)),
    "ViT-L-14-336": _model(768, 336, vision=(24, 1024, 14), text=(12, 768)),
    # Smaller, for one GPU.
    "ViT-S-32": _model(384, 224, vision=(12, 384, 32), text=(12, 384)),
    "ViT-S-16": _model(384, 224, vision=(12, 384, 16), text=(12, 384)),
    # For laptops and searches.
    "RN14-64": _model(192, 64, vision=((1, 1, 1, 1), 32, None), text=(2, 192)),
    "ViT-S-8-64": _model(384, 64, vision=(12, 384, 8), text=(6, 384)),
    "ViT-Ti-8-64": _model(192, 64, vision=(6, 192, 8), text=(4, 192)),
    "ViT-Ti-16-64": _model(192, 64, vision=(6, 192, 16), text=(4, 192)),
    # For tests: next to no work, and every part of the large ones.
    "ViT-mu-8-32": _model(32, 32, vision=(2, 32, 8), text=(2, 32)),
    "RN14-mu-64": _model(32, 64, vision=((1, 1, 1, 1), 4, None), text=(2, 32)),
}


def list_models() -> list[str]:
    """The names of all presets, the paper's first."""
    return list(PRESETS)


def preset(name: str) -> ModelConfig:
    """The config of the model called `name`.

    Raises:
        InputError: there is none; names the nearest.
    """
    if name not in PRESETS:
        nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"the models are {', '.join(PRESETS)}"
        raise InputError(f"no model is called {name}; {hint}")
    return PRESETS[name]
