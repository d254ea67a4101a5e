"""A few samples of a data set with what the model made of them, for people to look at; drawn at random."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cliploom.evaluation.datasets import Dataset, Sample, Shard, fetch
from cliploom.evaluation.frames import pictures as decoded
from cliploom.evaluation.ranks import top
from cliploom.evaluation.store import Features

PREDICTIONS = 8  # images a data set
RETRIEVALS = 4  # captions a data set
ANSWERS = 5  # shown of each
_SHARDS = 4  # that images are fetched from at most, for classification
_SIDE = 160  # pixels of a picture in the report
_SEED = 0


class Answer(NamedTuple):
    """One of the model's first answers."""

    name: str  # of the class; of the picture
    share: float  # softmax over all answers
    right: bool
    picture: str = ""  # data URI


class Example(NamedTuple):
    """A sample, the truth, and the model's answers, best first."""

    truth: str  # the class's name, or the caption
    answers: list[Answer]
    picture: str = ""  # data URI, where the sample is an image

    @property
    def place(self) -> int | None:
        """The right answer's place among those shown, from 1."""
        return next((number for number, answer in enumerate(self.answers, 1) if answer.right), None)


class Origin(NamedTuple):
    """Where a usable sample's image lies."""

    shard: int
    number: int


def origins(parts: Sequence[int], usable: np.ndarray) -> list[Origin]:
    """For each usable sample of a data set, its shard and its number there.

    Args:
        parts: samples of each shard.
        usable: bool [N], over all samples.
    """
    starts = np.cumsum([0, *parts])
    shards = np.searchsorted(starts, np.arange(len(usable)), side="right") - 1
    return [Origin(int(shards[i]), int(i - starts[shards[i]])) for i in np.flatnonzero(usable)]


def predictions(
    dataset: Dataset,
    features: Features,
    truth: np.ndarray,
    places: Sequence[Origin],
    classes: np.ndarray,
    scale: float,
) -> list[Example]:
    """Images with the classes that the model takes them for; probabilities are softmax(scale * cosine) over all.

    Args:
        dataset: of classes.
        features: of the usable samples.
        truth: int64 [N], or bool [N, C] of a multi-label set.
        places: where the samples lie.
        classes: float32 [C, D], embeddings of the classes.
        scale: on cosines.
    """
    chosen = _draw(places, PREDICTIONS)
    shown = pictures(dataset.shards, [places[i] for i in chosen])
    best, cosines = top(features.images[chosen], classes, ANSWERS)
    shares = _shares(features.images[chosen], classes, scale, cosines)
    found = []
    for row, i in enumerate(chosen):
        right = [truth[i]] if truth.ndim == 1 else np.flatnonzero(truth[i])
        answers = [
            Answer(dataset.classnames[name], float(share), bool(name in right))
            for name, share in zip(best[row], shares[row], strict=True)
        ]
        found.append(Example(", ".join(dataset.classnames[name] for name in right), answers, shown[row]))
    return found


def retrievals(dataset: Dataset, features: Features, places: Sequence[Origin], scale: float) -> list[Example]:
    """Captions with the images that the model finds for them."""
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(features.captions))[:RETRIEVALS])
    best, cosines = top(features.texts[chosen], features.images, ANSWERS)
    shares = _shares(features.texts[chosen], features.images, scale, cosines)
    shown = iter(pictures(dataset.shards, [places[i] for i in best.flat]))
    found = []
    for row, i in enumerate(chosen):
        answers = [
            Answer(str(features.keys[image]), float(share), bool(image == features.owners[i]), next(shown))
            for image, share in zip(best[row], shares[row], strict=True)
        ]
        found.append(Example(str(features.captions[i]), answers))
    return found


def _draw(places: Sequence[Origin], count: int) -> np.ndarray:
    """Numbers of `count` samples at random, from a few shards of the data set."""
    random = np.random.default_rng(_SEED)
    shards = np.unique([place.shard for place in places])
    near = random.permutation(shards)[:_SHARDS]
    among = np.flatnonzero(np.isin([place.shard for place in places], near))
    return np.sort(random.permutation(among)[:count])


def _shares(queries: np.ndarray, gallery: np.ndarray, scale: float, best: np.ndarray) -> np.ndarray:
    """The probabilities of the best answers, whose cosines [Q, K] are given."""
    logits = scale * (queries @ gallery.T)
    everything = np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)
    return np.exp(scale * best - logits.max(1, keepdims=True)) / everything


def pictures(shards: Sequence[Shard], places: Sequence[Origin]) -> list[str]:
    """The images at `places` as data URIs; each shard is read once."""
    found: dict[Origin, Sample] = {}
    for shard in {place.shard for place in places}:
        numbers = [place.number for place in places if place.shard == shard]
        samples = fetch(shards[shard], numbers)
        found.update({Origin(shard, number): sample for number, sample in samples.items()})
    return [_data_uri(found[place]) for place in places]


def _data_uri(sample: Sample) -> str:
    (image,) = decoded(sample)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((_SIDE, _SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
