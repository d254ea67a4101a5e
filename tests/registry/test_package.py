"""A registered model in the hands of a stock MLflow client."""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import pickletools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from cliploom import models, registry
from cliploom.data import vocabulary
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import Preprocess
from cliploom.models import weights
from cliploom.registry import package
from cliploom.registry.tracking import Tracker

SIZE = 32
TEXTS = ["a red square", "a blue square", ""]


def pictures() -> list[bytes]:
    """Three noisy PNGs of different shapes."""
    rng = np.random.default_rng(0)
    encoded = []
    for height, width in [(40, 50), (32, 32), (90, 20)]:
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(stream, "PNG")
        encoded.append(stream.getvalue())
    return encoded


def base64_of(images: list[bytes]) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]


@pytest.fixture(scope="session")
def clip() -> models.CLIP:
    """The smallest transformer preset there is, with random weights."""
    smallest = min(
        (models.preset(name) for name in models.list_models() if name.startswith("ViT")),
        key=lambda config: config.embed_dim,
    )
    return models.create(smallest, seed=0).eval()


@pytest.fixture(scope="session")
def folder(clip: models.CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MLflow model of it."""
    export = tmp_path_factory.mktemp("export")
    weights.save(clip, export)
    to = tmp_path_factory.mktemp("packed") / "model"
    package.write(to, export)
    return to


@pytest.fixture(scope="session")
def loaded(folder: Path) -> Any:
    from mlflow import pyfunc

    return pyfunc.load_model(str(folder))


@torch.inference_mode()
def test_images_give_the_model_s_embeddings(clip: models.CLIP, loaded: Any) -> None:
    preprocess = Preprocess(clip.config.image_size)
    pixels = [preprocess(Image.open(io.BytesIO(image)).convert("RGB")) for image in pictures()]
    expected = clip.encode_image(torch.stack(pixels)).numpy()
    given = loaded.predict(pd.DataFrame({"image": base64_of(pictures())}))
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_texts_give_the_model_s_embeddings(clip: models.CLIP, loaded: Any) -> None:
    expected = clip.encode_text(Tokenizer()(TEXTS)).numpy()
    np.testing.assert_allclose(loaded.predict(pd.DataFrame({"text": TEXTS})), expected, rtol=1e-4, atol=1e-5)


def test_no_file_has_a_name_by_which_storage_would_unpack_it(clip: models.CLIP, tmp_path: Path) -> None:
    own = vocabulary.train(TEXTS * 2, 520)
    weights.save(models.create(replace(clip.config, vocab_size=520), seed=0), tmp_path / "export")
    (tmp_path / "export" / vocabulary.NAME).write_bytes(own.pack())
    package.write(tmp_path / "model", tmp_path / "export")
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {vocabulary.NAME, "clip_vocabulary.bpe"} <= {path.name for path in files}
    assert [path.name for path in files if mimetypes.guess_type(path)[1]] == []


@torch.inference_mode()
def test_texts_are_read_by_the_model_s_own_vocabulary(clip: models.CLIP, tmp_path: Path) -> None:
    from mlflow import pyfunc

    own = vocabulary.train(TEXTS * 2, 520)
    model = models.create(replace(clip.config, vocab_size=520), seed=0).eval()
    weights.save(model, tmp_path / "export")
    (tmp_path / "export" / vocabulary.NAME).write_bytes(own.pack())
    package.write(tmp_path / "model", tmp_path / "export")
    given = pyfunc.load_model(str(tmp_path / "model")).predict(pd.DataFrame({"text": TEXTS}))
    expected = model.encode_text(Tokenizer(vocabulary=own)(TEXTS)).numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_rows_may_mix_and_be_normalized(loaded: Any) -> None:
    images = base64_of(pictures())
    mixed = pd.DataFrame({"image": [images[0], None, images[1]], "text": [None, TEXTS[0], None]})
    given = loaded.predict(mixed, params={"normalize": True})
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, rtol=1e-5)
    rows = loaded.predict(pd.DataFrame({"image": images[:2]})), loaded.predict(pd.DataFrame({"text": TEXTS[:1]}))
    expected = np.stack([rows[0][0], rows[1][0], rows[0][1]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_more_rows_than_a_batch(loaded: Any) -> None:
    texts = [f"number {i}" for i in range(70)]
    given = loaded.predict(pd.DataFrame({"text": texts}))
    np.testing.assert_allclose(given[64:], loaded.predict(pd.DataFrame({"text": texts[64:]})), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({"image": ["not base64!"]}, "nor base64"),
        ({"image": [base64.b64encode(b"no picture").decode()]}, "image"),
        ({"image": [None], "text": [None]}, "either 'image'"),
        ({"image": ["aGk="], "text": ["both"]}, "either 'image'"),
    ],
)
def test_wrong_rows_are_refused(loaded: Any, frame: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        loaded.predict(pd.DataFrame(frame))


def test_nothing_in_the_model_is_a_pickle(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"weights.safetensors", "config.json", "MLmodel", "requirements.txt", "input_example.json"} <= names
    assert not {path.suffix for path in files} & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".joblib", ".pyc"}
    for path in files:
        with pytest.raises((ValueError, UnicodeDecodeError, IndexError)):
            list(pickletools.genops(path.read_bytes()))


def test_signature_example_and_pins(folder: Path) -> None:
    model = yaml.safe_load((folder / "MLmodel").read_text())
    inputs = json.loads(model["signature"]["inputs"])
    assert {(column["name"], column["type"], column["required"]) for column in inputs} == {
        ("image", "string", False),
        ("text", "string", False),
    }
    assert json.loads(model["signature"]["params"])[0]["name"] == "normalize"
    pins = (folder / "requirements.txt").read_text().split()
    assert all("==" in pin and "+" not in pin for pin in pins)
    assert {"torch", "mlflow", "safetensors"} <= {pin.partition("==")[0] for pin in pins}


STOCK = """
import base64, json, sys
from pathlib import Path
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
for trained_with in ("ray", "deepspeed", "boto3", "rich"):
    sys.modules[trained_with] = None  # importing it fails
model = mlflow.pyfunc.load_model(sys.argv[2])
embeddings = model.predict(pd.DataFrame({"text": ["a red square"]}))
model.predict(pd.DataFrame({"image": [base64.b64encode(Path(sys.argv[3]).read_bytes()).decode()]}))
import cliploom
print(json.dumps([embeddings.tolist(), cliploom.__file__]))
"""


@torch.inference_mode()
def test_a_process_without_cliploom_loads_a_version_and_predicts(
    clip: models.CLIP, uri: str, tracker: Tracker, tmp_path: Path
) -> None:
    weights.save(clip, tmp_path / "export")
    version = registry.register(uri, "pictures", tracker.run_id, tmp_path / "export", {}, "# A card\n")
    (tmp_path / "a.png").write_bytes(pictures()[0])
    (tmp_path / "stock.py").write_text(STOCK)
    command = [sys.executable, str(tmp_path / "stock.py"), uri, version.uri, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    embeddings, source = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(embeddings, clip.encode_text(Tokenizer()("a red square")), rtol=1e-4, atol=1e-5)
    assert Path(source).parent.parent.name == "code"  # the model's own, not the one that is installed


@pytest.mark.parametrize("name", ["export", "step-000100"])
def test_the_registry_gives_back_the_weights(
    clip: models.CLIP, uri: str, tracker: Tracker, tmp_path: Path, name: str
) -> None:
    weights.save(clip, tmp_path / name)
    version = registry.register(uri, "pictures", tracker.run_id, tmp_path / name, {}, "# A card\n")
    again = weights.load(registry.download(uri, version, tmp_path / "here"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in clip.state_dict().items())
