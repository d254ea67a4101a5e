"""The captioner against a plain program of its formulas, and its cuts in memory against none."""

from __future__ import annotations

import pytest
import torch

import oracle
import toys
from cliploom.models import checkpoint_activations
from cliploom.objectives import captioning


@pytest.mark.parametrize("name", [toys.VIT, toys.RESNET])
def test_loss_is_the_oracles(name: str) -> None:
    network = toys.network("captioning", name)
    images, tokens = toys.pictures(4, network.config), toys.texts(4)
    found = toys.loss(network, images, tokens)
    weights = network.state_dict()
    for row, (features, text) in enumerate(zip(network.see(images), toys.listed(tokens), strict=True)):
        expected = oracle.caption_surprise(weights, network.config.text_heads, features, text)
        torch.testing.assert_close(found[row], expected, rtol=1e-10, atol=1e-10)


def test_logits_of_few_tokens_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = toys.network("captioning")
    images, tokens = toys.pictures(4, network.config), toys.texts(4)
    whole = toys.loss(network, images, tokens)
    expected = toys.gradients(network, whole)
    monkeypatch.setattr(captioning, "LOGIT_ELEMENTS", 3 * toys.VOCABULARY)
    cut = toys.loss(network, images, tokens)
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(toys.gradients(network, cut), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [toys.VIT, toys.RESNET])
def test_recomputed_activations_change_no_gradient(name: str) -> None:
    network = toys.network("captioning", name)
    images, tokens = toys.pictures(4, network.config), toys.texts(4)
    expected = toys.gradients(network, toys.loss(network, images, tokens))
    checkpoint_activations(network)
    towers = [module for module in network.modules() if hasattr(module, "recompute")]
    assert len(towers) == 2
    assert all(tower.recompute for tower in towers)
    torch.testing.assert_close(
        toys.gradients(network, toys.loss(network, images, tokens)), expected, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("positions", [1, 30, 50, 200])
def test_scores_of_few_texts_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    network = toys.network("captioning", dtype=torch.float32)
    images, tokens = toys.pictures(3, network.config, torch.float32), toys.texts(7)
    expected = network.score(images, tokens)
    monkeypatch.setattr(captioning, "SCORED_POSITIONS", positions)
    torch.testing.assert_close(network.score(images, tokens), expected, rtol=1e-5, atol=1e-5)


def test_scoring_runs_the_image_tower_once() -> None:
    network = toys.network("captioning", dtype=torch.float32)
    calls: list[int] = []
    network.visual.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    network.score(toys.pictures(3, network.config, torch.float32), toys.texts(50))
    assert calls == [3]


def test_a_word_does_not_see_those_behind_it() -> None:
    network = toys.network("captioning")
    assert isinstance(network, captioning.Captioner)
    image, tokens = toys.pictures(1, network.config), toys.texts(1)
    other = tokens.clone()
    other[0, 6] = (other[0, 6] + 1) % 30
    hidden = []
    network.ln_final.register_forward_hook(lambda _, __, output: hidden.append(output))
    toys.loss(network, image.repeat(2, 1, 1, 1), torch.cat([tokens, other]))
    torch.testing.assert_close(hidden[0][0, :6], hidden[0][1, :6], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(hidden[0][0, 6:], hidden[0][1, 6:])
