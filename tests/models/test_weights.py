from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cliploom.errors import InputError
from cliploom.models import CLIP, create, preset, weights
from cliploom.models.names import to_transformers
from models.reference_models import captions, pictures, random_open_clip_model, randomize
from reference import import_open_clip, import_torchvision

State = dict[str, Tensor]
VIT = preset("ViT-mu-8-32")
RESNET = preset("RN14-mu-64")


def random_model(name: str) -> CLIP:
    model = create(preset(name)).eval()
    randomize(model)
    return model


@pytest.fixture(params=["ViT-mu-8-32", "RN14-mu-64"])
def model(request: pytest.FixtureRequest) -> CLIP:
    return random_model(request.param)


@torch.no_grad()
def assert_same(got: CLIP, expected: CLIP) -> None:
    assert got.config == expected.config
    images, tokens = pictures(expected.config, 2), captions(2)
    for a, b in zip(got.eval()(images, tokens), expected(images, tokens), strict=True):
        assert torch.equal(a, b)


def test_own_format_comes_back(model: CLIP, tmp_path: Path) -> None:
    weights.save(model, tmp_path / "export")
    assert sorted(file.name for file in (tmp_path / "export").iterdir()) == ["config.json", "weights.safetensors"]
    assert_same(weights.load(tmp_path / "export"), model)
    assert_same(weights.load(tmp_path / "export" / "weights.safetensors"), model)


def test_saved_state_has_openais_names_and_no_dimension_on_logit_scale(tmp_path: Path) -> None:
    model = random_model("ViT-mu-8-32")
    state = {**model.state_dict(), "logit_scale": torch.full((1,), 2.0)}
    weights.save_state(state, model.config, tmp_path)
    saved = load_file(tmp_path / "weights.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert saved["logit_scale"].shape == ()
    assert_same(weights.load(tmp_path), model)


def test_half_precision_is_read_into_fp32(tmp_path: Path) -> None:
    model = random_model("ViT-mu-8-32").half()
    torch.save(model.state_dict(), tmp_path / "half.pt")
    loaded = weights.load(tmp_path / "half.pt")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert_same(loaded, model.float())


def plain(state: State) -> Any:
    return state


def with_openais_extras(state: State) -> Any:
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    return {**state, **{name: torch.tensor(size) for name, size in sizes.items()}}


def open_clip_checkpoint(state: State) -> Any:
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    return {"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": {"state": {}, "param_groups": []}}


def without_batch_counts(state: State) -> Any:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("form", [plain, with_openais_extras, open_clip_checkpoint, without_batch_counts])
def test_state_dicts_of_torch_save_are_read(form: Callable[[State], Any], model: CLIP, tmp_path: Path) -> None:
    torch.save(form(model.state_dict()), tmp_path / "weights.pt")
    assert_same(weights.load(tmp_path / "weights.pt", model.config), model)
    torch.save(form(model.state_dict()), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same(weights.load(tmp_path / "old.pt"), model)


def test_torchscript_archives_are_read(model: CLIP, tmp_path: Path) -> None:
    """As OpenAI published its models: traced, in half precision."""
    example = pictures(model.config, 1), captions(1)
    traced = torch.jit.trace(model, example, strict=False, check_trace=False)
    traced.save(tmp_path / "model.pt")
    assert_same(weights.load(tmp_path / "model.pt"), model)
    traced.half().save(tmp_path / "half.pt")
    assert_same(weights.load(tmp_path / "half.pt", model.config), model.half().float())


@torch.no_grad()
def test_transformers_models_are_read_and_written(tmp_path: Path) -> None:
    import_torchvision()  # transformers imports it where it is installed
    from transformers import CLIPModel

    ours = random_model("ViT-mu-8-32")
    weights.save_transformers(ours, tmp_path / "export")
    theirs = CLIPModel.from_pretrained(tmp_path / "export").eval()
    images, tokens = pictures(ours.config, 3), captions(3)
    out = theirs(input_ids=tokens, pixel_values=images)
    image, text, scale = ours(images, tokens)
    torch.testing.assert_close(out.image_embeds, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.text_embeds, text, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.logits_per_image, scale * image @ text.T, atol=1e-4, rtol=0)

    theirs.save_pretrained(tmp_path / "theirs")
    assert_same(weights.load(tmp_path / "theirs"), ours)
    torch.save(theirs.state_dict(), tmp_path / "theirs.bin")
    assert_same(weights.load(tmp_path / "theirs.bin"), ours)


def test_resnet_has_no_counterpart_in_transformers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="transformers has no CLIP with a ResNet"):
        weights.save_transformers(create(RESNET), tmp_path)


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    weights.save_transformers(create(VIT), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="has the activations gelu, quick_gelu, one for each tower"):
        weights.load(tmp_path)
    config["text_config"]["hidden_act"] = config["vision_config"]["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="has the activation relu; quick_gelu and gelu are known"):
        weights.load(tmp_path)


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
@pytest.mark.parametrize("quick", [True, False])
def test_open_clips_config_tells_the_activation(quick: bool, file: str, tmp_path: Path) -> None:
    model = random_model("ViT-mu-8-32")
    (save_file if file.endswith("safetensors") else torch.save)(model.state_dict(), tmp_path / file)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": quick}}))
    for asked in (None, model.config):
        loaded = weights.load(tmp_path, asked)
        assert loaded.config.activation == ("quick_gelu" if quick else "gelu")
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("tower", "heads", "said"),
    [("vision", 4, "image tower has 4 heads"), ("text", 2, "text tower has 2 heads"), ("vision", None, "has 12 heads")],
)
def test_transformers_models_of_other_heads_are_refused(
    tower: str, heads: int | None, said: str, tmp_path: Path
) -> None:
    """Where its config names none, transformers takes 12 in the image tower."""
    weights.save_transformers(create(VIT), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[f"{tower}_config"]["num_attention_heads"] = heads
    if heads is None:
        del config[f"{tower}_config"]["num_attention_heads"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"model\.safetensors does not fit: its .*{said}, cliploom's has 1 of 64"):
        weights.load(tmp_path)


def test_open_clip_models_of_other_heads_are_refused(tmp_path: Path) -> None:
    """Their number is no shape's, so that they would load as another network; ViT-H-14 is so wide, of heads of 80."""
    model = create(dataclasses.replace(VIT, vision_width=1280, vision_layers=1))
    file = tmp_path / "open_clip_model.safetensors"
    save_file(model.state_dict(), file)

    def load(vision: dict[str, int] | None) -> CLIP:
        told = {"model_cfg": {"quick_gelu": True, "vision_cfg": vision, "text_cfg": {"heads": 1}}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(told if vision else {}))
        return weights.load(tmp_path)

    with pytest.raises(InputError, match="its image tower has 16 heads, cliploom's has 20 of 64 channels"):
        load({"width": 1280, "head_width": 80})
    assert load({"width": 1280}).config == model.config
    with pytest.raises(InputError, match=r"1280 channels may be parted into heads of more than 64.* put the config"):
        load(None)
    assert weights.load(file, model.config).config == model.config, "which says what the heads are"
    weights.save(model, tmp_path)
    assert weights.load(tmp_path).config == model.config


@pytest.mark.parametrize(
    ("config", "vision"),
    [(VIT, {"width": 64}), (RESNET, {"width": 4, "layers": [1, 1, 1, 1]}), (preset("ViT-Ti-8-64"), {"width": 192})],
)
def test_heads_of_open_clips_config_are_counted_as_it_does(config: Any, vision: dict[str, Any], tmp_path: Path) -> None:
    save_file(create(config).state_dict(), tmp_path / "open_clip_model.safetensors")
    text = {"heads": config.text_heads}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": vision, "text_cfg": text}}))
    assert weights.load(tmp_path).config == dataclasses.replace(config, activation="gelu")


@pytest.mark.parametrize(
    "change",
    [{"activation": "gelu"}, {"logit_bias": True}, {"text_layers": 0}, {"activation": "gelu", "text_layers": 0}],
)
def test_variants_come_back_as_they_were(change: dict[str, Any], tmp_path: Path) -> None:
    model = create(dataclasses.replace(VIT, **change), seed=1)
    weights.save(model, tmp_path)
    assert_same(weights.load(tmp_path), model)


@torch.no_grad()
def test_gelu_models_of_transformers_are_read_and_written(tmp_path: Path) -> None:
    import_torchvision()
    from transformers import CLIPModel

    ours = create(dataclasses.replace(VIT, activation="gelu"), seed=1).eval()
    weights.save_transformers(ours, tmp_path)
    theirs = CLIPModel.from_pretrained(tmp_path).eval()
    images, tokens = pictures(ours.config, 3), captions(3)
    out = theirs(input_ids=tokens, pixel_values=images)
    torch.testing.assert_close(out.image_embeds, ours(images, tokens)[0], atol=1e-5, rtol=0)
    assert_same(weights.load(tmp_path), ours)


@pytest.mark.parametrize("change", [{"logit_bias": True}, {"text_layers": 0}])
def test_what_transformers_lacks_is_not_exported(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this model differs in that"):
        weights.save_transformers(create(dataclasses.replace(VIT, **change)), tmp_path)


def test_a_logit_bias_that_is_asked_for_starts_as_the_sigmoid_losss(tmp_path: Path) -> None:
    weights.save(create(VIT, seed=1), tmp_path)
    loaded = weights.load(tmp_path, dataclasses.replace(VIT, logit_bias=True))
    assert loaded.config.logit_bias
    assert loaded.logit_bias.item() == -10


@pytest.mark.parametrize("size", [16, 48, 64])
def test_positions_are_interpolated_as_open_clip_does(size: int, tmp_path: Path) -> None:
    model = random_model("ViT-mu-8-32")
    weights.save(model, tmp_path)
    wanted = dataclasses.replace(model.config, image_size=size)
    theirs = random_open_clip_model(wanted)
    state = model.state_dict()
    grid = SimpleNamespace(visual=SimpleNamespace(grid_size=theirs.visual.grid_size))
    import_open_clip().model.resize_pos_embed(state, grid)
    loaded = weights.load(tmp_path, wanted)
    assert loaded.config == wanted
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, state[name], atol=1e-6, rtol=0)
    loaded.encode_image(pictures(wanted, 1))


def test_positions_of_a_resnet_are_interpolated(tmp_path: Path) -> None:
    model = random_model("RN14-mu-64")
    weights.save(model, tmp_path)
    wanted = dataclasses.replace(model.config, image_size=96)
    loaded = weights.load(tmp_path, wanted).state_dict()["visual.attnpool.positional_embedding"]
    old = model.state_dict()["visual.attnpool.positional_embedding"]
    assert torch.equal(loaded[0], old[0])
    corners = loaded[1:].unflatten(0, (3, 3))[1, 1]
    torch.testing.assert_close(corners, old[1:].mean(0))  # the middle of a 2 x 2 grid


def test_same_resolution_is_left_alone(tmp_path: Path) -> None:
    model = random_model("ViT-mu-8-32")
    weights.save(model, tmp_path)
    assert_same(weights.load(tmp_path, model.config), model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (preset("ViT-Ti-8-64"), "its embed_dim is 32 where the model asked for has 192"),
        (RESNET, r"its vision_layers is 2 where the model asked for has \(1, 1, 1, 1\)"),
        (dataclasses.replace(VIT, text_layers=3), "its text_layers is 2 where the model asked for has 3"),
        (dataclasses.replace(VIT, patch_size=4), "its patch_size is 8 where the model asked for has 4"),
    ],
)
def test_weights_of_another_model_are_refused(config: Any, message: str, tmp_path: Path) -> None:
    weights.save(create(VIT), tmp_path)
    with pytest.raises(InputError, match=rf"weights.safetensors does not fit: {message}"):
        weights.load(tmp_path, config)


def test_custom_towers_of_open_clip_are_refused(tmp_path: Path) -> None:
    save_file({"visual.trunk.x": torch.ones(1), "text.transformer.x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="custom towers"):
        weights.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("form", [plain, lambda state: to_transformers(state, VIT)], ids=["openai", "transformers"])
def test_state_with_any_part_missing_or_misshapen_is_refused(form: Callable[[State], State], tmp_path: Path) -> None:
    """Each tensor in turn is left out, given another number of dimensions, and given another size."""
    state = form(create(VIT).state_dict())
    state = {name: tensor for name, tensor in state.items() if ".1." not in name}  # the first block stands for all
    file = tmp_path / "x.safetensors"
    for name in state:
        rest = {key: tensor for key, tensor in state.items() if key != name and tensor.numel() < 10_000}
        for change in (None, torch.ones(()), torch.ones(2, 2, 2), torch.ones(3, 5, dtype=torch.int64)):
            save_file(rest | ({} if change is None else {name: change}), file)
            with pytest.raises(InputError, match="does not fit"):
                weights.load(file)


def test_unknown_format_version_is_refused(tmp_path: Path) -> None:
    weights.save(create(VIT), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format_version": 2}))
    with pytest.raises(InputError, match=r"config.json has format version 2; this version of cliploom reads 1"):
        weights.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_damaged_config_is_refused(text: str, tmp_path: Path) -> None:
    weights.save(create(VIT), tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"config.json"):
        weights.load(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no weights file .*nothing\.pt"):
        weights.load(tmp_path / "nothing.pt")
    with pytest.raises(InputError, match=r"holds no weights: none of weights\.safetensors"):
        weights.load(tmp_path)
