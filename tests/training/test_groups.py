"""AdamW's groups: what decays, and how the rate falls with the distance from the output."""

from __future__ import annotations

import pytest
from test_step import make_network

from cliploom import models, objectives
from cliploom.models import preset
from cliploom.training.groups import parameter_groups


def rates(network: models.CLIP, layer_decay: float) -> dict[str, float]:
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, 0.2, layer_decay)
    found = {names[p]: group["rate"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    return found


@pytest.mark.parametrize("name", ["ViT-mu-8-32", "RN14-mu-64"])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(name: str) -> None:
    model = models.create(preset(name), seed=0)
    groups = parameter_groups(model, 0.2, 1.0)
    assert len(groups) == 2
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.2]
    for group in groups:
        assert group["rate"] == 1
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])
    assert {p for group in groups for p in group["params"]} == set(model.parameters())


def test_rates_of_a_vision_transformer_fall_towards_the_input() -> None:
    found = rates(models.create(preset("ViT-mu-8-32"), seed=0), 0.5)
    for tower, first, last in (
        (
            "visual.",
            ["conv1.weight", "positional_embedding", "class_embedding", "ln_pre.bias"],
            ["proj", "ln_post.bias"],
        ),
        ("", ["token_embedding.weight", "positional_embedding"], ["text_projection", "ln_final.weight"]),
    ):
        for name in first:
            assert found[tower + name] == 0.5**3, name
        assert found[f"{tower}transformer.resblocks.0.mlp.c_fc.weight"] == 0.5**2
        assert found[f"{tower}transformer.resblocks.1.ln_1.weight"] == 0.5
        for name in last:
            assert found[tower + name] == 1, name
    assert found["logit_scale"] == 1


def test_rates_of_a_resnet_fall_from_block_to_block() -> None:
    found = rates(models.create(preset("RN14-mu-64"), seed=0), 0.5)
    assert found["visual.conv1.weight"] == found["visual.bn3.bias"] == 0.5**5
    for stage in (1, 2, 3, 4):
        assert found[f"visual.layer{stage}.0.conv2.weight"] == 0.5 ** (5 - stage)
    assert found["visual.attnpool.positional_embedding"] == found["visual.attnpool.c_proj.weight"] == 1


def test_what_is_locked_is_in_no_group() -> None:
    model = models.create(preset("ViT-mu-8-32"), seed=0)
    model.lock_image()
    assert not any(name.startswith("visual.") for name in rates(model, 0.9))


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_all_of_an_objectives_parameters_are_trained(name: str) -> None:
    network = make_network(name)
    groups = parameter_groups(network, 0.2, 0.8)
    assert {p for group in groups for p in group["params"]} == {p for p in network.parameters() if p.requires_grad}
