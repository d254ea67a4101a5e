"""A model, its preprocessing and its tokenizer by one name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cliploom import storage

if TYPE_CHECKING:
    from cliploom.data.tokenizer import Tokenizer
    from cliploom.data.transforms import Preprocess
    from cliploom.models import CLIP

_REGISTRY = "models:/"


def list_models() -> list[str]:
    """The names of all presets, the paper's nine first."""
    from cliploom import models

    return models.list_models()


def load(
    name: str, weights: str | Path | None = None, registry_uri: str | None = None
) -> tuple[CLIP, Preprocess, Tokenizer]:
    """A model ready for use, in fp32 on the CPU and in evaluation mode.

    Args:
        name: a preset (`ViT-B-32`), a version in the registry (`models:/NAME@champion`, `models:/NAME/3`), or the path
            or URI of weights whose shapes say what model they are.
        weights: path or URI of the preset's weights: OpenAI's, open_clip's, transformers' or our own. Without it the
            preset's weights are random.
        registry_uri: of MLflow; by default where jobs without a setting put it.

    Returns:
        The model; the preprocessing, from a PIL image to a normalised fp32 [3, H, W]; the tokenizer, from a text or
        a list of them to int64 [B, 77].

    Raises:
        InputError: there is no such model, version or file, or the weights don't fit.
    """
    from cliploom.data.tokenizer import Tokenizer
    from cliploom.data.transforms import Preprocess

    model = _model(name, weights, registry_uri).eval()
    return model, Preprocess(model.config.image_size), Tokenizer()


def _model(name: str, weights: str | Path | None, registry_uri: str | None) -> CLIP:
    from cliploom import models
    from cliploom.models import weights as files

    if name.startswith(_REGISTRY):
        return _registered(name, registry_uri)
    if weights is None and name not in models.list_models() and (storage.is_s3(name) or Path(name).exists()):
        with _local(name) as path:
            return files.load(path)
    config = models.preset(name)
    if weights is None:
        return models.create(config)
    with _local(str(weights)) as path:
        return files.load(path, config)


def _registered(name: str, registry_uri: str | None) -> CLIP:
    from cliploom import config, registry
    from cliploom.models import weights as files

    uri = registry_uri or registry.store_uri(config.Config())
    version = registry.resolve(uri, name)
    with tempfile.TemporaryDirectory() as folder:
        return files.load(registry.download(uri, version, Path(folder)))


@contextmanager
def _local(uri: str) -> Iterator[Path]:
    """The file or folder at `uri` as a local path, for as long as the context lasts."""
    if not storage.is_s3(uri):
        yield storage.local(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        inside = storage.files(uri)
        for file in inside:
            storage.download(file.uri, Path(folder) / file.uri.removeprefix(uri.rstrip("/") + "/"))
        if not inside:
            storage.download(uri, Path(folder) / storage.name(uri))
        yield Path(folder) if inside else Path(folder) / storage.name(uri)
