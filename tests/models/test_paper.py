"""The paper's models against published counts of their parameters and operations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from cliploom.errors import InputError
from cliploom.models import CLIP, compound, forward_flops, preset

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
        model._encode_texts([torch.empty(1, model.config.context_length, dtype=torch.int64, device="meta")])
    return image.get_total_flops() / 1e9, text.get_total_flops() / 1e9


def left_out(model: CLIP) -> tuple[float, float]:
    """10^9 operations of image and text on outputs that nothing reads, which are not computed here.

    Of the last block: query, scores, output and MLP of all positions but the pooled one. Of a ResNet's attention
    pooling: query and output of all positions but the first.
    """
    config = model.config
    positions, width = config.grid_size**2 + 1, config.vision_width
    image = (positions - 1) * (20 * width**2 + 4 * positions * width)
    if config.is_resnet:
        image = (positions - 1) * 2 * config.feature_width * (config.feature_width + config.embed_dim)
        image += (positions - 1) * 4 * positions * config.feature_width
    length, width = config.context_length, config.text_width
    return image / 1e9, (length - 1) * (20 * width**2 + 4 * length * width) / 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published(name: str) -> None:
    assert parameters(on_meta(name)) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED_MILLIONS)
def test_parameter_count_of_smaller_models_is_the_published(name: str) -> None:
    assert round(parameters(on_meta(name)) / 1e6, 2) == PUBLISHED_MILLIONS[name][0]


@pytest.mark.parametrize("name", [*PUBLISHED, *PUBLISHED_MILLIONS])
def test_operations_are_the_published(name: str) -> None:
    model = on_meta(name)
    nominal = forward_flops(model.config)
    for own, computed, spared, published in zip(
        nominal, operations(model), left_out(model), (PUBLISHED | PUBLISHED_MILLIONS)[name][1:], strict=True
    ):
        assert own / 1e9 == pytest.approx(published, rel=0.003)
        assert computed + spared == pytest.approx(published, rel=0.003)


@pytest.mark.parametrize(("name", "factor"), [("RN50x4", 4), ("RN50x64", 64)])
def test_compound_rule_gives_the_papers_widths_and_resolutions(name: str, factor: float) -> None:
    paper, ours = preset(name), compound(preset("RN50"), factor)
    for field in ("vision_width", "text_width", "image_size", "text_layers", "context_length", "vocab_size"):
        assert getattr(ours, field) == getattr(paper, field), field


@given(st.sampled_from(["RN50", "ViT-B-32", "ViT-B-16", "ViT-Ti-8-64"]), st.floats(0.2, 80))
def test_compound_rule_spends_the_compute_it_is_given(name: str, factor: float) -> None:
    base = preset(name)
    scaled = compound(base, factor)
    assert forward_flops(scaled).image / forward_flops(base).image == pytest.approx(factor, rel=0.15)
    assert scaled.text_width / base.text_width == pytest.approx(scaled.vision_width / base.vision_width, rel=0.2)


def test_compound_rule_refuses_what_it_cannot_make() -> None:
    with pytest.raises(InputError, match="above 0"):
        compound(preset("RN50"), 0)
    with pytest.raises(InputError, match="no model of this family"):
        compound(preset("ViT-mu-8-32"), 1e-4)
