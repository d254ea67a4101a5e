from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cliploom.models import (
    CLIP,
    ModelConfig,
    checkpoint_activations,
    compile_blocks,
    create,
    list_models,
    normalize_pixels,
    preset,
)
from models.reference_models import captions, pictures, random_open_clip_model, randomize
from reference import import_torchvision

SMALL = ["ViT-mu-8-32", "RN14-mu-64"]


@pytest.fixture(params=SMALL)
def model(request: pytest.FixtureRequest) -> CLIP:
    made = create(preset(request.param)).eval()
    randomize(made)
    return made


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in {*SMALL, "ViT-Ti-8-64", "ViT-B-32", "RN50"} else pytest.mark.slow)
        for name in list_models()
    ],
)
@torch.no_grad()
def test_embeddings_are_open_clips(name: str) -> None:
    config = preset(name)
    theirs = random_open_clip_model(config)
    with torch.device("meta"):
        ours = CLIP(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    images, tokens = pictures(config, 2), captions(3)
    torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.encode_text(tokens), theirs.encode_text(tokens), atol=1e-4, rtol=0)


VARIANTS = [
    preset("ViT-mu-8-32"),
    preset("RN14-mu-64"),
    preset("ViT-Ti-8-64"),
    replace(preset("ViT-mu-8-32"), activation="gelu", logit_bias=True),
]


@pytest.mark.parametrize("config", VARIANTS)
def test_open_clip_loads_our_state_strictly(config: ModelConfig) -> None:
    ours, theirs = create(config, seed=3).eval(), random_open_clip_model(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = pictures(config, 2)
    torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", VARIANTS)
def test_gradients_are_open_clips(config: ModelConfig) -> None:
    theirs = random_open_clip_model(config).double().train()
    ours = CLIP(config).double().train()
    ours.load_state_dict(theirs.state_dict())
    images, tokens = pictures(config, 4).double(), captions(4)
    for model in (ours, theirs):
        features = torch.cat([model.encode_image(images), model.encode_text(tokens)])
        loss = (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum()
        (loss + sum(p.sum() for name, p in model.named_parameters() if name.startswith("logit_"))).backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-10, rtol=1e-8, msg=name)


@torch.no_grad()
def test_columns_past_the_longest_text_change_nothing() -> None:
    model = create(preset("ViT-mu-8-32"), seed=0).double()
    tokens = captions(8, longest=12)
    longest = int(tokens.argmax(-1).max()) + 1
    whole = model._encode_texts([tokens])
    assert longest <= 12
    torch.testing.assert_close(model.encode_text(tokens), whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(model.encode_text(tokens[:, :longest].int()), whole, atol=1e-12, rtol=0)


@torch.no_grad()
def test_buckets_come_back_in_order() -> None:
    model = create(preset("ViT-mu-8-32"), seed=0).double()
    images, tokens = pictures(model.config, 9), captions(9)
    order = tokens.argmax(-1).argsort()
    buckets = [tokens[rows, : int(tokens[rows].argmax(-1).max()) + 1] for rows in order.tensor_split(3)]
    assert len({bucket.shape[1] for bucket in buckets}) > 1
    for got, expected in zip(model(images, buckets, order.argsort()), model(images, tokens), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_embeddings_have_unit_length_in_at_least_fp32(model: CLIP, dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    image, text, scale = model.to(dtype).train()(pictures(model.config, 4), captions(4))
    assert image.dtype == text.dtype == scale.dtype == wide
    assert model.encode_image(pictures(model.config, 4)).dtype == model.encode_text(captions(4)).dtype == wide
    for features in (image, text):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(4, dtype=wide))
    (image @ text.T * scale).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
def test_bf16_is_near_fp32(model: CLIP) -> None:
    images, tokens = pictures(model.config, 8), captions(8)
    exact = model(images, tokens)
    rounded = copy.deepcopy(model).bfloat16()(images, tokens)
    for a, b in zip(exact[:2], rounded[:2], strict=True):
        assert (a * b).sum(-1).min() > 0.999


def test_autocast_computes_in_bf16_and_gives_fp32_embeddings(model: CLIP) -> None:
    images, tokens = pictures(model.config, 8), captions(8)
    exact = model(images, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        image, text, scale = model(images, tokens)
    assert image.dtype == text.dtype == scale.dtype == torch.float32
    assert not torch.equal(image, exact[0])
    for a, b in ((image, exact[0]), (text, exact[1])):
        assert (a * b).sum(-1).min() > 0.999
        assert not torch.equal(a, a.bfloat16().float())
    (image @ text.T * scale).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_logit_scale_is_at_most_100_and_may_have_a_dimension() -> None:
    model = create(preset("ViT-mu-8-32"), seed=0)
    inputs = pictures(model.config, 2), captions(2)
    assert model.logit_scale.shape == ()
    torch.testing.assert_close(model(*inputs)[2], torch.tensor([1 / 0.07]))
    model.logit_scale = torch.nn.Parameter(torch.tensor([math.log(100) + 1]))
    torch.testing.assert_close(model(*inputs)[2], torch.tensor([100.0]))


def test_checkpointing_changes_no_gradient(model: CLIP) -> None:
    def gradients() -> list[Tensor]:
        model.zero_grad()
        image, text, scale = model(pictures(model.config, 4), captions(4))
        (torch.eye(4) * (image @ text.T) * scale).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    plain = gradients()
    checkpoint_activations(model)
    assert model.transformer.recompute
    for got, expected in zip(gradients(), plain, strict=True):
        assert torch.equal(got, expected)


def test_compiled_blocks_compute_the_same(model: CLIP) -> None:
    images, tokens = pictures(model.config, 4), captions(4)
    expected = model(images, tokens)
    names = list(model.state_dict())
    compile_blocks(model)
    for got, plain in zip(model(images, tokens), expected, strict=True):
        torch.testing.assert_close(got, plain, atol=1e-5, rtol=1e-5)
    assert list(model.state_dict()) == names


@torch.no_grad()
def test_dropped_patches_are_not_seen_and_their_order_does_not_matter() -> None:
    model = create(preset("ViT-mu-8-32"), seed=0).double()
    images = pictures(model.config, 2).double()
    kept = torch.tensor([[0, 3, 7], [5, 9, 15]])
    some = model.encode_image(images, kept)
    torch.testing.assert_close(model.encode_image(images, kept.flip(1)), some, atol=1e-12, rtol=0)
    changed = images.clone()
    changed[0, :, :8, 8:16] += 1  # patch 1
    torch.testing.assert_close(model.encode_image(changed, kept), some, atol=1e-12, rtol=0)
    changed[0, :, :8, 24:] += 1  # patch 3
    assert (model.encode_image(changed, kept)[0] - some[0]).abs().max() > 1e-6
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(model.encode_image(images, everything), model.encode_image(images), atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_bag_of_words_knows_no_order_and_no_padding() -> None:
    model = create(replace(preset("ViT-mu-8-32"), text_layers=0), seed=0).double()
    tokens = torch.tensor([[49406, 5, 6, 7, 49407, 0], [49406, 7, 5, 6, 49407, 9], [49406, 7, 5, 49407, 0, 0]])
    first, shuffled, other = model.encode_text(tokens)
    torch.testing.assert_close(shuffled, first, atol=1e-12, rtol=0)
    assert (other - first).abs().max() > 1e-3
    mean = model.token_embedding.weight[[5, 6, 7]].mean(0)
    torch.testing.assert_close(first, model.ln_final(mean) @ model.text_projection, atol=1e-12, rtol=0)
    assert model.encode_text(torch.tensor([[49406, 49407]])).isfinite().all()


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_locked_tower_gets_no_gradient_and_keeps_its_statistics(model: CLIP, tower: str) -> None:
    (model.lock_image if tower == "image" else model.lock_text)()
    model.train()
    before = copy.deepcopy(dict(model.named_buffers()))
    image, text, scale = model(pictures(model.config, 4), captions(4))
    (image @ text.T * scale).sum().backward()
    for name, parameter in model.named_parameters():
        locked = not name.startswith("logit") and name.startswith("visual.") == (tower == "image")
        assert (parameter.grad is None) == locked, name
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(module.training == (tower == "text") for module in norms)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_exact_scalars_take_the_place_of_rounded_ones() -> None:
    model = create(replace(preset("ViT-mu-8-32"), logit_bias=True), seed=0).bfloat16()
    inputs = pictures(model.config, 2), captions(2)
    exact = torch.tensor([3.14159, -9.87654])
    model.exact_scalars = exact
    shared = model(*inputs)[2]
    torch.testing.assert_close(shared, torch.stack([exact[0].exp(), exact[1]]), rtol=1e-6, atol=0)
    shared.sum().backward()
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.item() == pytest.approx(shared[0].item(), rel=2**-8)
    assert model.logit_bias.grad == 1


def test_seed_decides_the_weights_and_leaves_the_global_generator() -> None:
    config = preset("RN14-mu-64")
    state = torch.get_rng_state()
    first, again, other = (create(config, seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["visual.conv1.weight"], other["visual.conv1.weight"])


def test_initial_spread_is_the_papers() -> None:
    state = create(preset("ViT-Ti-8-64"), seed=0).state_dict()
    expected = {
        "token_embedding.weight": 0.02,
        "positional_embedding": 0.01,
        "text_projection": 192**-0.5,
        "transformer.resblocks.1.attn.in_proj_weight": 192**-0.5,
        "transformer.resblocks.1.attn.out_proj.weight": (192 * 2 * 4) ** -0.5,
        "transformer.resblocks.1.mlp.c_fc.weight": (2 * 192) ** -0.5,
        "transformer.resblocks.1.mlp.c_proj.weight": (192 * 2 * 4) ** -0.5,
        "visual.positional_embedding": 192**-0.5,
        "visual.proj": 192**-0.5,
    }
    for name, spread in expected.items():
        assert state[name].std().item() == pytest.approx(spread, rel=0.03), name
    assert state["logit_scale"].item() == pytest.approx(2.6592600, abs=1e-6)


def test_residual_branches_of_a_resnet_start_at_zero() -> None:
    state = create(preset("RN14-mu-64"), seed=0).state_dict()
    gains = [name for name in state if ".bn3.weight" in name and "layer" in name]
    assert len(gains) == 4
    assert all(state[name].eq(0).all() for name in gains)


def test_pixels_are_normalised_as_torchvision_does() -> None:
    transforms = import_torchvision().transforms
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = transforms.functional.normalize(pixels.double() / 255, mean, std)
    torch.testing.assert_close(normalize_pixels(pixels, torch.float64), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(normalize_pixels(pixels, torch.float32), expected.float(), atol=1e-6, rtol=0)
    half = normalize_pixels(pixels, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected.float(), atol=0, rtol=2**-8)
