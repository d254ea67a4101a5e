from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import cliploom
from cliploom import registry, storage
from cliploom.data import vocabulary
from cliploom.data.tokenizer import Tokenizer
from cliploom.errors import InputError
from cliploom.models import CLIP, create, preset, weights
from cliploom.models.names import to_transformers

NAME = "ViT-mu-8-32"


@pytest.fixture
def model() -> CLIP:
    return create(preset(NAME), seed=1)


def assert_same(got: CLIP, expected: CLIP) -> None:
    assert got.config == expected.config
    assert not got.training
    for name, tensor in expected.state_dict().items():
        assert torch.equal(got.state_dict()[name], tensor), name


@torch.inference_mode()
def test_preset_takes_pictures_and_texts() -> None:
    model, preprocess, tokenize = cliploom.load(NAME)
    assert not model.training
    images = torch.stack([preprocess(Image.new("RGB", (50, 40), "red")), preprocess(Image.new("RGB", (32, 32)))])
    assert images.shape == (2, 3, 32, 32)
    assert model.encode_image(images).shape == (2, 32)
    assert model.encode_text(tokenize(["a red square", "black"])).shape == (2, 32)


def test_weights_of_a_preset_may_be_anyones(model: CLIP, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "openai.pt")
    save_file(to_transformers(model.state_dict(), model.config), tmp_path / "model.safetensors")
    weights.save(model, tmp_path / "export")
    for file in ("openai.pt", "model.safetensors", "export", "export/weights.safetensors"):
        assert_same(cliploom.load(NAME, weights=tmp_path / file)[0], model)


def test_weights_alone_say_what_model_they_are(model: CLIP, tmp_path: Path) -> None:
    weights.save(model, tmp_path)
    assert_same(cliploom.load(str(tmp_path))[0], model)
    assert_same(cliploom.load(f"{tmp_path}/weights.safetensors")[0], model)


def test_the_tokenizer_is_that_of_the_vocabulary_beside_the_weights(model: CLIP, tmp_path: Path) -> None:
    own = vocabulary.train(["a red square", "a blue square"] * 2, 520)
    small = create(replace(preset(NAME), vocab_size=520), seed=1)
    weights.save(small, tmp_path)
    with pytest.raises(InputError, match=r"has 520 token ids, CLIP's vocabulary has 49408: put .* vocabulary\.bpe"):
        cliploom.load(str(tmp_path))
    (tmp_path / vocabulary.NAME).write_bytes(own.pack())
    expected = Tokenizer(vocabulary=own)("a red square")
    for name, file in [(str(tmp_path), None), (f"{tmp_path}/weights.safetensors", None), (NAME, tmp_path)]:
        got, _, tokenize = cliploom.load(name, weights=file)
        assert_same(got, small)
        assert tokenize("a red square").equal(expected)
    weights.save(model, tmp_path)
    with pytest.raises(InputError, match=r"has 49408 token ids, .*vocabulary\.bpe has 520"):
        cliploom.load(NAME, weights=tmp_path)


def test_preprocessing_follows_the_weights_resolution(tmp_path: Path) -> None:
    weights.save(create(preset("RN14-mu-64")), tmp_path)
    _, preprocess, _ = cliploom.load(str(tmp_path))
    assert preprocess(Image.new("RGB", (100, 80))).shape == (3, 64, 64)


def test_version_in_the_registry(model: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.save(model, tmp_path / "export")
    asked = []

    def resolve(uri: str, name: str) -> str:
        asked.append((uri, name))
        return "the version"

    def download(uri: str, version: str, to: Path) -> Path:
        asked.append((uri, version))
        return Path(shutil.copytree(tmp_path / "export", to / "export"))

    monkeypatch.setattr(registry, "resolve", resolve)
    monkeypatch.setattr(registry, "download", download)
    assert_same(cliploom.load("models:/pictures@champion", registry_uri="http://mlflow")[0], model)
    assert asked == [("http://mlflow", "models:/pictures@champion"), ("http://mlflow", "the version")]
    monkeypatch.chdir(tmp_path)
    cliploom.load("models:/pictures/3")
    assert asked[2] == (f"sqlite:///{tmp_path}/storage/mlflow.db", "models:/pictures/3")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that s3://bucket is."""

    def local(uri: str) -> Path:
        return tmp_path / uri.removeprefix("s3://")

    def files(uri: str) -> list[storage.File]:
        inside = local(uri).iterdir() if local(uri).is_dir() else []
        return [storage.File(f"{uri}/{path.name}", path.stat().st_size) for path in inside]

    monkeypatch.setattr(storage, "files", files)
    size = storage.size
    monkeypatch.setattr(storage, "size", lambda uri: size(str(local(uri))))
    monkeypatch.setattr(storage, "download", lambda uri, path: shutil.copyfile(local(uri), path))
    return tmp_path / "bucket"


@pytest.mark.parametrize("uri", ["s3://bucket/export", "s3://bucket/export/weights.safetensors"])
def test_weights_on_s3(uri: str, model: CLIP, bucket: Path) -> None:
    weights.save(model, bucket / "export")
    assert_same(cliploom.load(uri)[0], model)
    assert_same(cliploom.load(NAME, weights=uri)[0], model)


def test_a_file_on_s3_has_the_config_and_the_vocabulary_beside_it(bucket: Path) -> None:
    own = vocabulary.train(["a red square", "a blue square"] * 2, 520)
    small = create(replace(preset(NAME), vocab_size=520, activation="gelu"), seed=1)
    weights.save(small, bucket / "own")
    (bucket / "own" / vocabulary.NAME).write_bytes(own.pack())
    uri = "s3://bucket/own/weights.safetensors"
    for name, file in [(uri, None), (NAME, uri)]:
        got, _, tokenize = cliploom.load(name, weights=file)
        assert_same(got, small)
        assert tokenize("a red square").equal(Tokenizer(vocabulary=own)("a red square"))


@pytest.mark.parametrize(
    ("file", "config", "told"),
    [
        ("open_clip_pytorch_model.bin", "open_clip_config.json", {"model_cfg": {}}),
        ("pytorch_model.bin", "config.json", {"text_config": {"hidden_act": "gelu", "num_attention_heads": 1}}),
    ],
)
def test_a_file_of_others_on_s3_has_the_config_beside_it(
    file: str, config: str, told: dict[str, Any], model: CLIP, bucket: Path
) -> None:
    bucket.mkdir()
    for name in (file, "mine.pt"):
        torch.save(model.state_dict(), bucket / name)
    (bucket / config).write_text(json.dumps(told))
    gelu = create(replace(preset(NAME), activation="gelu"), seed=1)
    assert_same(cliploom.load(f"s3://bucket/{file}")[0], gelu)
    assert_same(cliploom.load("s3://bucket/mine.pt")[0], model)


def test_wrong_input_is_answered_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model is called ViT-B/32; did you mean ViT-B-32\?"):
        cliploom.load("ViT-B/32")
    with pytest.raises(InputError, match=r"there is no weights file .*nothing\.pt"):
        cliploom.load(NAME, weights=tmp_path / "nothing.pt")
    with pytest.raises(InputError, match=r"no model is called ViT-mu-8-33; did you mean ViT-mu-8-32\?"):
        cliploom.load("ViT-mu-8-33", weights=tmp_path / "nothing.pt")


def test_names_are_listed() -> None:
    assert {"RN50", "ViT-L-14-336", NAME} <= set(cliploom.list_models())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cliploom.nothing  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, cliploom.config; assert 'torch' not in sys.modules; import cliploom; cliploom.load"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, cliploom.loading; assert not {'torch', 'mlflow', 'PIL', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_need_torch_alone() -> None:
    foreign = {"ray", "mlflow", "deepspeed", "pyarrow", "boto3", "pydantic", "PIL"}
    code = f"import sys, cliploom.models.weights; assert not {foreign} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
