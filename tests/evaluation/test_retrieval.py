from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.evaluation import retrieval
from cliploom.evaluation.results import Measure
from cliploom.evaluation.store import Features
from cliploom.evaluation.suite import METRICS

_ALL = METRICS["zeroshot_retrieval"]


def _features(random: np.random.Generator, captions: list[int]) -> Features:
    count = len(captions)
    images, texts = (random.normal(size=(n, 4)).astype(np.float32) for n in (count, sum(captions)))
    return Features(
        keys=np.array([f"{n}" for n in range(count)]),
        labels=np.array([""] * count),
        causes=np.array([""] * count),
        images=images / np.linalg.norm(images, axis=1, keepdims=True),
        hidden=images,
        thumbnails=np.zeros((count, 32, 32, 3), np.uint8),
        captions=np.array([f"text {n}" for n in range(sum(captions))]),
        owners=np.repeat(np.arange(count), captions),
        texts=texts / np.linalg.norm(texts, axis=1, keepdims=True),
        seconds=np.zeros(1),
    )


def _measured(features: Features) -> dict[str, Measure]:
    images, texts = retrieval.rank_images(features), retrieval.rank_texts(features)
    return {one.metric: one for one in retrieval.measure(images, texts, features.owners, _ALL)}


def _recall(scores: np.ndarray, right: np.ndarray, k: int) -> float:
    """The share of rows with a right column among the `k` highest."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(right, best, axis=1).any(axis=1).mean())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4), min_size=1, max_size=15))
def test_recalls_are_those_of_brute_force(seed: int, captions: list[int]) -> None:
    features = _features(np.random.default_rng(seed), captions)
    scores = features.texts @ features.images.T
    right = features.owners[:, None] == np.arange(len(features))
    found = {name: one.estimate.value for name, one in _measured(features).items()}
    expected = {
        **{f"image_retrieval_recall@{k}": _recall(scores, right, k) for k in (1, 5, 10)},
        **{f"text_retrieval_recall@{k}": _recall(scores.T, right.T, k) for k in (1, 5, 10)},
    }
    assert found == pytest.approx(expected)


def test_chance_is_the_share_of_all_draws_that_hold_a_right_answer() -> None:
    captions = [1, 2, 4]
    owners = np.repeat(np.arange(3), captions)
    found = _measured(_features(np.random.default_rng(0), captions))
    draws = list(itertools.combinations(range(7), 5))
    expected = np.mean([any(owners[i] == image for i in draw) for image in range(3) for draw in draws])
    assert found["text_retrieval_recall@5"].chance == pytest.approx(expected)
    assert found["image_retrieval_recall@1"].chance == pytest.approx(1 / 3)
    assert found["image_retrieval_recall@5"].chance == 1
    assert (found["text_retrieval_recall@1"].samples, found["image_retrieval_recall@1"].samples) == (3, 7)


def test_an_image_without_caption_gets_a_cause() -> None:
    checked = retrieval.checked(_features(np.random.default_rng(0), [1, 0, 2]))
    assert checked.causes.tolist() == ["", "no caption", ""]
    usable = checked.usable()
    assert usable.keys.tolist() == ["0", "2"]
    assert usable.owners.tolist() == [0, 1, 1]
    assert usable.captions.tolist() == ["text 0", "text 1", "text 2"]
