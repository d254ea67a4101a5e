"""A model, its preprocessing and its tokenizer by one name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cliploom import storage

if TYPE_CHECKING:
    from cliploom.data.tokenizer import Tokenizer
    from cliploom.data.transforms import Preprocess
    from cliploom.data.vocabulary import Vocabulary
    from cliploom.models import CLIP, ModelConfig

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
        a list of them to int64 [B, 77], by the vocabulary that lies beside the weights, or else by CLIP's.

    Raises:
        InputError: there is no such model, version or file; or the weights don't fit, or not the vocabulary.
    """
    from cliploom.data.tokenizer import Tokenizer
    from cliploom.data.transforms import Preprocess

    model, vocabulary = _model(name, weights, registry_uri)
    tokenizer = Tokenizer(model.config.context_length, vocabulary)
    return model.eval(), Preprocess(model.config.image_size), tokenizer


def _model(name: str, weights: str | Path | None, registry_uri: str | None) -> tuple[CLIP, Vocabulary]:
    from cliploom import models
    from cliploom.data import vocabulary as vocabularies

    known = name in models.list_models()
    if name.startswith(_REGISTRY) or (weights is None and not known and (storage.is_s3(name) or Path(name).exists())):
        return _stored(name, registry_uri)
    config = models.preset(name)
    if weights is None:
        return models.create(config), vocabularies.clip()
    return _stored(str(weights), registry_uri, config)


def _stored(uri: str, registry_uri: str | None, preset: ModelConfig | None = None) -> tuple[CLIP, Vocabulary]:
    """The model of the weights at `uri`; with `preset` it is to be that one, but for the size of the vocabulary."""
    from cliploom.data import vocabulary as vocabularies
    from cliploom.models import weights as files

    with local_weights(uri, registry_uri) as path:
        model = files.load(path)
        vocabulary = vocabularies.of_model(str(path), model.config.vocab_size)
        wanted = replace(preset or model.config, vocab_size=vocabulary.size)
        # Read again only for another resolution or activation, or to be told what does not fit.
        return model if model.config == wanted else files.load(path, wanted), vocabulary


@contextmanager
def local_weights(uri: str, registry_uri: str | None = None) -> Iterator[Path]:
    """The file or folder of weights at `uri` as a local path, its config beside it, for as long as the context lasts.

    Args:
        uri: a path, an s3:// URI, or a version in the registry (`models:/NAME@champion`).
        registry_uri: of MLflow; by default where jobs without a setting put it.

    Raises:
        InputError: there is nothing.
    """
    if not uri.startswith(_REGISTRY) and not storage.is_s3(uri):
        yield storage.local(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield _registered(uri, registry_uri, Path(folder)) if uri.startswith(_REGISTRY) else _fetched(uri, Path(folder))


def _registered(name: str, registry_uri: str | None, folder: Path) -> Path:
    from cliploom import config, registry

    uri = registry_uri or registry.store_uri(config.Config())
    return registry.download(uri, registry.resolve(uri, name), folder)


def _fetched(uri: str, folder: Path) -> Path:
    inside = storage.files(uri)
    for file in inside:
        storage.download(file.uri, folder / file.uri.removeprefix(uri.rstrip("/") + "/"))
    if inside:
        return folder
    storage.download(uri, folder / storage.name(uri))
    for place in _beside(uri):
        if storage.exists(place):
            storage.download(place, folder / storage.name(place))
    return folder / storage.name(uri)


def _beside(uri: str) -> list[str]:
    """Where what belongs to a file of weights may lie; nowhere for a file of a name that nobody publishes."""
    from cliploom.data import vocabulary as vocabularies
    from cliploom.models import sidecar
    from cliploom.models import weights as files

    if storage.name(uri) not in files.KNOWN_FILES:
        return []
    names = (sidecar.CONFIG, sidecar.OPEN_CLIP_CONFIG, vocabularies.NAME)
    return [storage.join(storage.parent(uri), name) for name in names]
