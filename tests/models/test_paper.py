"""The paper's models against published counts of their parameters and operations."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cliploom.models import CLIP, preset

# Parameters: of OpenAI's checkpoints. Operations (10^9, a multiplication and an addition being two) of one image and
# one text of 77 tokens: open_clip's docs/model_profile.csv.
PUBLISHED = {
    "RN50": (102007137, 12.22, 5.96),
    "RN101": (119688033, 19.54, 5.96),
    "RN50x4": (178300601, 42.56, 9.27),
    "RN50x16": (290979217, 149.39, 13.3),
    "RN50x64": (623258305, 529.11, 23.55),
    "ViT-B-32": (151277313, 8.82, 5.96),
    "ViT-B-16": (149620737, 35.13, 5.96),
    "ViT-L-14": (427616513, 162.03, 13.3),
    "ViT-L-14-336": (427944193, 381.92, 13.3),
}
PUBLISHED_MILLIONS = {"ViT-S-32": (63.09, 2.29, 3.38), "ViT-S-16": (62.26, 9.2, 3.38)}


def on_meta(name: str) -> CLIP:
    with torch.device("meta"):
        return CLIP(preset(name)).eval()


def parameters(model: CLIP) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def operations(model: CLIP) -> tuple[float, float]:
    """10^9 operations of one image and of one text."""
    size = model.config.image_size
    with FlopCounterMode(display=False) as image:
        model.encode_image(torch.empty(1, 3, size, size, device="meta"))
    with FlopCounterMode(display=False) as text:
        model._encode_text(torch.empty(1, model.config.context_length, dtype=torch.int64, device="meta"))
    return image.get_total_flops() / 1e9, text.get_total_flops() / 1e9


def dropped_by_reference(model: CLIP) -> float:
    """10^9 operations that open_clip's attention pooling spends on rows that it then drops.

    It projects a query and an output for each position and keeps the first; the first alone is computed here, as
    OpenAI's code does.
    """
    config = model.config
    if not config.is_resnet:
        return 0.0
    width = config.feature_width
    return config.grid_size**2 * 2 * width * (width + config.embed_dim) / 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published(name: str) -> None:
    assert parameters(on_meta(name)) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED_MILLIONS)
def test_parameter_count_of_smaller_models_is_the_published(name: str) -> None:
    assert round(parameters(on_meta(name)) / 1e6, 2) == PUBLISHED_MILLIONS[name][0]


@pytest.mark.parametrize("name", [*PUBLISHED, *PUBLISHED_MILLIONS])
def test_operations_are_the_published(name: str) -> None:
    model = on_meta(name)
    image, text = operations(model)
    _, published_image, published_text = (PUBLISHED | PUBLISHED_MILLIONS)[name]
    assert image + dropped_by_reference(model) == pytest.approx(published_image, rel=0.01)
    assert text == pytest.approx(published_text, rel=0.01)
