"""What holds for all networks that predict text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import toys
from cliploom import models, objectives
from cliploom.models import checkpoint_activations
from cliploom.models.norm import norms
from cliploom.training.step import text_buckets

COMBINATIONS = [(objective, name) for objective in toys.BASELINES for name in (toys.VIT, toys.RESNET)]
NETWORKS = {objective: toys.network(objective) for objective in toys.BASELINES}


@pytest.mark.parametrize(("objective", "name"), COMBINATIONS)
def test_every_parameter_gets_a_gradient(objective: str, name: str) -> None:
    network = toys.network(objective, name).train()
    found = toys.gradients(network, toys.loss(network, toys.pictures(4, network.config), toys.texts(4)))
    assert found.keys() == dict(network.named_parameters()).keys()
    assert [
        key for key, gradient in found.items() if not gradient.abs().sum() > 0 or not gradient.isfinite().all()
    ] == []


@pytest.mark.parametrize("objective", toys.BASELINES)
@given(count=st.integers(1, 7), buckets=st.integers(1, 7), seed=st.integers(0, 99))
def test_padding_and_buckets_change_nothing(objective: str, count: int, buckets: int, seed: int) -> None:
    network = NETWORKS[objective]
    images, padded = toys.pictures(count, network.config, seed=seed), toys.texts(count + 1, seed)[1:]
    expected = toys.loss(network, images, padded)
    cut = padded[:, : int(padded.argmax(-1).max()) + 1]
    torch.testing.assert_close(toys.loss(network, images, cut), expected, rtol=1e-12, atol=1e-12)
    parts, restore = text_buckets(padded, buckets)
    torch.testing.assert_close(toys.loss(network, images, parts, restore), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", toys.BASELINES)
def test_a_sample_counts_by_itself(objective: str) -> None:
    network = toys.network(objective)
    images, tokens = toys.pictures(5, network.config), toys.texts(5)
    alone = torch.cat([toys.loss(network, images[i : i + 1], tokens[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(toys.loss(network, images, tokens), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", toys.BASELINES)
def test_batch_norm_groups_are_the_plan_s_whatever_the_cut_and_the_lengths(objective: str) -> None:
    network = toys.network(objective, toys.RESNET).train()
    for norm in norms(network):
        norm.group_size = 2
    images, tokens = toys.pictures(6, network.config), toys.texts(6)
    parts = [toys.loss(network, images[i : i + 2], tokens[i : i + 2]) for i in (0, 2, 4)]
    cut, restore = text_buckets(tokens, 3)
    torch.testing.assert_close(toys.loss(network, images, cut, restore), torch.cat(parts), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("objective", "name"), COMBINATIONS)
def test_bf16_and_int32_tokens_come_near_fp32(objective: str, name: str) -> None:
    exact, rounded = toys.network(objective, name, torch.float32), toys.network(objective, name, torch.bfloat16)
    images, tokens = toys.pictures(6, exact.config, torch.float32), toys.texts(6)
    expected = toys.loss(exact, images, tokens)
    found = toys.loss(rounded, images, tokens.int())
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.03 * expected.abs().mean()
    with torch.autocast("cpu", torch.bfloat16):
        autocast = toys.loss(exact, images, tokens)
    assert autocast.dtype == torch.float32
    assert (autocast - expected).abs().mean() < 0.03 * expected.abs().mean()


@pytest.mark.parametrize(("objective", "name"), COMBINATIONS)
def test_recomputed_activations_give_the_same_gradients(objective: str, name: str) -> None:
    network = toys.network(objective, name)
    images, tokens = toys.pictures(3, network.config), toys.texts(3)
    expected = toys.gradients(network, toys.loss(network, images, tokens))
    checkpoint_activations(network)
    found = toys.gradients(network, toys.loss(network, images, tokens))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", toys.BASELINES)
def test_hidden_patches_are_not_seen(objective: str) -> None:
    network = toys.network(objective)
    images, tokens = toys.pictures(2, network.config), toys.texts(2)
    seen = torch.tensor([[0, 1, 2, 5], [4, 7, 8, 15]])
    changed = images.clone()
    changed[0, :, 8:16, 16:24] += 1  # patch 6
    expected = toys.loss(network, images, tokens, torch.arange(2), seen)
    assert torch.equal(toys.loss(network, changed, tokens, torch.arange(2), seen), expected)
    changed[0, :, 8:16, 8:16] += 1  # patch 5
    again = toys.loss(network, changed, tokens, torch.arange(2), seen)
    assert again[0] != expected[0]
    assert again[1] == expected[1]


@pytest.mark.parametrize(("objective", "name"), COMBINATIONS)
def test_the_score_of_a_text_is_minus_its_loss(objective: str, name: str) -> None:
    network = toys.network(objective, name, torch.float32)
    images, tokens = toys.pictures(3, network.config, torch.float32), toys.texts(7)
    found = objectives.score(network, images, tokens)
    assert found.shape == (3, 7)
    assert found.dtype == torch.float32
    for text in range(7):
        expected = -toys.loss(network, images, tokens[text].expand(3, -1))
        torch.testing.assert_close(found[:, text], expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", ["contrastive", "sigmoid", "bag_of_words_contrastive"])
def test_the_score_of_clip_is_its_logit(objective: str) -> None:
    network = objectives.create(objective, toys.config(), 0).eval()
    assert isinstance(network, models.CLIP)
    images, tokens = toys.pictures(3, network.config, torch.float32), toys.texts(5)
    image, text = network.encode_image(images), network.encode_text(tokens)
    bias = network.logit_bias if objective == "sigmoid" else 0
    expected = network.logit_scale.exp() * F.cosine_similarity(image[:, None], text, dim=-1) + bias
    torch.testing.assert_close(objectives.score(network, images, tokens), expected.detach())


@pytest.mark.parametrize("objective", toys.BASELINES)
def test_scores_find_the_learned_caption_of_each_image(objective: str) -> None:
    tokens = toys.texts(8, seed=5, fixed=5)  # of one length, since shorter texts are more likely ones anyway
    images = toys.pictures(8, toys.config(), torch.float32)
    ngrams = objectives.count_ngrams([tokens], toys.VOCABULARY, most=500, min_count=1)
    network = objectives.create(objective, toys.config(), 0, ngrams)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    before = toys.loss(network, images, tokens).mean()
    for _ in range(80):
        optimizer.zero_grad()
        toys.loss(network, images, tokens).mean().backward()
        optimizer.step()
    assert toys.loss(network, images, tokens).mean() < before
    assert torch.equal(objectives.score(network.eval(), images, tokens).argmax(1), torch.arange(8))
