"""What a run's settings make of a model, and which don't go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cliploom import config, models
from cliploom.errors import InputError
from cliploom.training.run import model_config

VIT = models.preset("ViT-mu-8-32")


def made(*settings: str, start: models.ModelConfig | None = None) -> models.ModelConfig:
    return model_config(config.load(None, ["model.name=ViT-mu-8-32", *settings]), start)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ([], {}),
        (["model.activation=gelu"], {"activation": "gelu"}),
        (["objective.name=sigmoid"], {"logit_bias": True}),
        (["objective.name=bag_of_words_contrastive"], {"text_layers": 0}),
    ],
)
def test_settings_and_objective_make_the_geometry(settings: list[str], change: dict[str, Any]) -> None:
    assert made(*settings) == replace(VIT, **change)


def test_weights_say_their_activation() -> None:
    start = replace(VIT, activation="gelu")
    assert made("model.weights=w", start=start) == start
    with pytest.raises(InputError, match="has gelu: leave"):
        made("model.weights=w", "model.activation=quick_gelu", start=start)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.name=RN14-mu-64", "model.patch_dropout=0.5"], "model.patch_dropout needs a vision transformer"),
        (["train.lock=image"], "train.lock=image needs weights to keep: give model.weights"),
        (["objective.name=captioning", "model.weights=w"], "objective.name=captioning trains no CLIP"),
    ],
)
def test_what_does_not_go_together(settings: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(*settings)
