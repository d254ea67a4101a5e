from __future__ import annotations

import dataclasses
import json

import pytest

from cliploom.errors import InputError
from cliploom.models import ModelConfig, list_models, preset

VIT = preset("ViT-mu-8-32")
RESNET = preset("RN14-mu-64")


@pytest.mark.parametrize("name", list_models())
def test_config_survives_json(name: str) -> None:
    config = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_papers_models_come_first() -> None:
    paper = "RN50 RN101 RN50x4 RN50x16 RN50x64 ViT-B-32 ViT-B-16 ViT-L-14 ViT-L-14-336"
    assert list_models()[:9] == paper.split()


@pytest.mark.parametrize(
    ("name", "nearest"), [("ViT-B/32", "ViT-B-32"), ("rn50", "RN50"), ("ViT-L-14@336", "ViT-L-14")]
)
def test_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"no model is called {name}; did you mean {nearest}"):
        preset(name)


def test_name_near_to_none_is_answered_with_all() -> None:
    with pytest.raises(InputError, match=r"the models are RN50, RN101, .*ViT-L-14-336"):
        preset("gpt")


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (VIT, {"image_size": 33}, "image_size 33 is no multiple of 8"),
        (RESNET, {"image_size": 33}, "image_size 33 is no multiple of 32"),
        (VIT, {"text_width": 100}, "text_width gives 100 channels"),
        (RESNET, {"vision_width": 3}, "vision_width gives 96 channels"),
        (VIT, {"vision_layers": (1, 1, 1, 1)}, "a ViT takes one"),
        (RESNET, {"vision_layers": 12}, "a ResNet takes four numbers"),
        (RESNET, {"vision_layers": (1, 0, 1, 1)}, "vision_layers is 0"),
        (VIT, {"text_layers": True}, "text_layers is True"),
        (VIT, {"vocab_size": "many"}, "vocab_size is 'many'"),
    ],
)
def test_values_that_make_no_model_are_refused(config: ModelConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config, **change)  # type: ignore[arg-type]


def test_missing_and_unknown_fields_are_named() -> None:
    values = VIT.to_dict()
    with pytest.raises(InputError, match="unknown field heads"):
        ModelConfig.from_dict({**values, "heads": 3})
    del values["embed_dim"]
    with pytest.raises(InputError, match="lacks embed_dim"):
        ModelConfig.from_dict(values)
