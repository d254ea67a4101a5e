"""Retrieval both ways: the image that a caption describes, and a caption that describes an image.

As in the CLIP papers and CLIP_benchmark, a query counts as answered at k if any of its right answers is among the
first k; an image may have several captions, and a caption has one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cliploom.evaluation.intervals import share
from cliploom.evaluation.ranks import first_hits
from cliploom.evaluation.results import Measure
from cliploom.evaluation.store import Features


def checked(features: Features) -> Features:
    """The features with a cause for each sample that has no caption."""
    captions = np.bincount(features.owners, minlength=len(features))
    causes = np.where((features.causes == "") & (captions == 0), "no caption", features.causes)
    return replace(features, causes=causes)


def rank_images(features: Features) -> np.ndarray:
    """How many images stand before each caption's own, int64 [T]."""
    return first_hits(features.texts, features.images, np.arange(len(features.owners)), features.owners)


def rank_texts(features: Features) -> np.ndarray:
    """How many captions stand before the first of each image's own, int64 [N]."""
    return first_hits(features.images, features.texts, features.owners, np.arange(len(features.owners)))


def measure(images: np.ndarray, texts: np.ndarray, owners: np.ndarray, metrics: Sequence[str]) -> list[Measure]:
    """The metrics `{image,text}_retrieval_recall@K` that follow from `rank_images` and `rank_texts`.

    Intervals are Wilson's; for image retrieval at the effective sample size of captions that come in clusters, one
    cluster an image.

    Args:
        images: int64 [T].
        texts: int64 [N].
        owners: int64 [T], each caption's image.
        metrics: to take.
    """
    found = []
    for metric in metrics:
        k = int(metric.partition("@")[2])
        if metric.startswith("image"):
            estimate, chance = share(images < k, clusters=owners), min(1.0, k / len(texts))
            found.append(Measure(metric, estimate, chance, len(images)))
        else:
            found.append(Measure(metric, share(texts < k), chance_of_text(np.bincount(owners), k), len(texts)))
    return found


def chance_of_text(captions: np.ndarray, k: int) -> float:
    """How likely `k` captions drawn at random hold one of an image's own, on average over images.

    Args:
        captions: int64 [N], how many each image has.
        k: captions drawn of all.
    """
    total = captions.sum()
    wrong = total - captions
    drawn = np.arange(min(k, total))
    none = np.clip((wrong[:, None] - drawn) / (total - drawn), 0, 1).prod(1)  # that the draws all miss
    return float(1 - none.mean())
