"""What a served model gives beyond embeddings, and what it refuses."""

from __future__ import annotations

import ast
import base64
import io
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import pyfunc
from PIL import Image

from cliploom import models
from cliploom.data import remote
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import Preprocess
from cliploom.models import weights
from cliploom.registry import package

CLASSES, TEMPLATES = ["cat", "red square", "boat"], ["a photo of a {c}.", "{c}"]


@pytest.fixture(scope="module")
def clip() -> models.CLIP:
    return models.create(models.preset("ViT-mu-8-32"), seed=0).eval()


@pytest.fixture(scope="module")
def folder(clip: models.CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MLflow model of it."""
    export = tmp_path_factory.mktemp("export")
    weights.save(clip, export)
    package.write(export / "model", export)
    return export / "model"


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return pyfunc.load_model(str(folder))


@pytest.fixture(scope="module")
def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def frame(*images: str) -> pd.DataFrame:
    return pd.DataFrame({"image": list(images)})


@torch.inference_mode()
def test_zero_shot_probabilities_are_those_of_a_plain_loop(clip: models.CLIP, loaded: Any, picture: bytes) -> None:
    normal, tokenize = torch.nn.functional.normalize, Tokenizer()
    image = normal(clip.encode_image(Preprocess(32)(Image.open(io.BytesIO(picture)))[None]), dim=-1)
    texts = [normal(clip.encode_text(tokenize([t.replace("{c}", c) for t in TEMPLATES])), dim=-1) for c in CLASSES]
    classes = torch.stack([normal(text.mean(0), dim=0) for text in texts])
    expected = (clip.logit_scale.exp() * image @ classes.T).softmax(-1).numpy()
    encoded = base64.b64encode(picture).decode()
    given = loaded.predict(frame(encoded, encoded), params={"classes": CLASSES, "templates": TEMPLATES})
    np.testing.assert_allclose(given, np.repeat(expected, 2, 0), rtol=1e-4)
    one = loaded.predict(frame(encoded), params={"classes": CLASSES})
    assert one.shape == (1, 3)
    np.testing.assert_allclose(one.sum(), 1, rtol=1e-5)


def test_templates_without_a_place_for_the_name_are_refused(loaded: Any, picture: bytes) -> None:
    encoded = base64.b64encode(picture).decode()
    with pytest.raises(ValueError, match="a photo"):
        loaded.predict(frame(encoded), params={"classes": CLASSES, "templates": ["a photo"]})


@pytest.fixture
def site(picture: bytes) -> Iterator[str]:
    """A web server with a picture, and a redirect to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/picture")
            self.end_headers()
            self.wfile.write(picture)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_urls_of_allowed_origins_alone(
    folder: Path, picture: bytes, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(remote.ORIGINS, f"https://images.example.org, {site}")
    serving = pyfunc.load_model(str(folder))
    encoded = base64.b64encode(picture).decode()
    np.testing.assert_array_equal(serving.predict(frame(f"{site}/picture")), serving.predict(frame(encoded)))
    port = site.rpartition(":")[2]
    for url, said in [
        (f"{site}/moved", "302"),
        (f"http://localhost:{port}/picture", "not allowed"),
        (f"{site}@192.0.2.1/picture", "not allowed"),
        (f"http://user:secret@127.0.0.1:{port}/picture", "not allowed"),
        ("http://169.254.169.254/latest/meta-data", "not allowed"),
    ]:
        with pytest.raises(ValueError, match=said) as raised:
            serving.predict(frame(url))
        assert "secret" not in str(raised.value)


def test_no_url_is_fetched_unless_allowed(loaded: Any, site: str) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        loaded.predict(frame(f"{site}/picture"))


def test_what_is_too_large_is_not_read_on(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MOST_BYTES", 100)
    with pytest.raises(ValueError, match="has more than"):
        remote.fetch(f"{site}/picture", [site])


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_a_stock_client_refuses_a_model_that_was_tampered_with(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / package.FOLDER / name
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is not the file that was registered"):
        pyfunc.load_model(str(tmp_path / "model"))


def test_all_that_the_code_imports_is_required() -> None:
    """What its source imports at the top of a module; imports inside of functions serve other uses."""
    paths = [package._SOURCE / name for name in package._CODE]
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    found = set[str]()
    for file in [*(f for f in files if f.suffix == ".py"), package._SOURCE / "registry" / "model.py"]:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    distributions = packages_distributions()
    required = {_plain(pin.partition("==")[0]) for pin in package.requirements()}
    for name in found - sys.stdlib_module_names - {"cliploom"}:
        assert required & {_plain(distribution) for distribution in distributions[name]}, name


def _plain(name: str) -> str:
    return name.lower().replace(".", "-").replace("_", "-")
