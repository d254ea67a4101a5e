"""Copies planted among pictures that are new: disjoint parts of real photographs."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import photos
from cliploom.evaluation import alignment
from cliploom.evaluation.duplicates import nearest
from cliploom.evaluation.preparing import small
from cliploom.evaluation.store import Features
from cliploom.settings.evaluation import EvaluateOverlap

_THRESHOLD = EvaluateOverlap().min_likeness


def _features(pictures: list[Image.Image], seed: int = 0, width: int = 8) -> Features:
    """With embeddings that say nothing."""
    count = len(pictures)
    images = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return Features(
        keys=np.array([f"{n}" for n in range(count)]),
        labels=np.array(["0"] * count),
        causes=np.array([""] * count, np.dtype("U9")),
        images=images / np.linalg.norm(images, axis=1, keepdims=True),
        hidden=images,
        thumbnails=np.stack([small(picture) for picture in pictures]),
        captions=np.zeros(0, np.str_),
        owners=np.zeros(0, np.int64),
        texts=np.zeros((0, width), np.float32),
        seconds=np.zeros(1),
    )


@functools.cache
def _tiles() -> list[Image.Image]:
    """Disjoint squares of the photographs that show something."""
    found = []
    for photo in photos.photographs():
        for left in range(0, photo.width - 79, 80):
            for top in range(0, photo.height - 79, 80):
                tile = photo.crop((left, top, left + 80, top + 80))
                if np.asarray(tile.convert("L")).std() > 15:
                    found.append(tile)
    order = np.random.default_rng(0).permutation(len(found))
    return [found[i] for i in order]


def _changed(picture: Image.Image, seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    share = random.uniform(0.8, 1, 2)
    left, top = random.uniform(0, 1 - share) * picture.size
    copy = picture.crop((round(left), round(top), *(round(x) for x in (left, top) + share * picture.size)))
    side = int(random.integers(64, 192))
    copy = ImageEnhance.Brightness(copy.resize((side, side))).enhance(random.uniform(0.7, 1.3))
    copy = ImageEnhance.Color(ImageEnhance.Contrast(copy).enhance(random.uniform(0.7, 1.3))).enhance(0.7)
    file = io.BytesIO()
    copy.save(file, "JPEG", quality=40)
    return Image.open(file)


def test_planted_copies_are_found_and_new_pictures_are_not() -> None:
    tiles = _tiles()
    half, quarter = len(tiles) // 2, len(tiles) // 4
    assert quarter >= 15
    test = _features([_changed(tile, n) for n, tile in enumerate(tiles[:quarter])] + tiles[half:], seed=1)
    shards = [_features(tiles[: half // 2]), _features(tiles[half // 2 : half])]
    found = nearest(test, 2, lambda number: shards[number])
    same = found.likeness >= _THRESHOLD
    planted = np.arange(len(same)) < quarter
    assert same[planted].mean() >= 0.9
    assert planted[same].mean() >= 0.9
    own = found.place[:, 0] * (half // 2) + found.place[:, 1]
    assert (own[:quarter] == np.arange(quarter))[same[:quarter]].all()


def test_broken_training_pictures_are_passed_over() -> None:
    tiles = _tiles()[:6]
    shards = [_features(tiles[:3]), _features(tiles[3:])]
    shards[0].causes[1] = "no image"
    found = nearest(_features(tiles), 2, lambda number: shards[number])
    assert (found.likeness > 0.999).tolist() == [True, False, True, True, True, True]
    assert found.place[[0, 2, 3, 4, 5]].tolist() == [[0, 0], [0, 2], [1, 0], [1, 1], [1, 2]]
    shards[0].causes[:] = shards[1].causes[:] = "no image"
    assert nearest(_features(tiles), 2, lambda number: shards[number]).likeness.max() <= 0


@pytest.mark.parametrize(
    ("left", "top", "size", "number"), [(0, 0, 0.8, 0), (0.2, 0.1, 0.8, 1), (0.1, 0.03, 0.85, 2), (0.05, 0, 0.93, 3)]
)
def test_a_crop_is_alike_whichever_of_the_two_is_cropped(left: float, top: float, size: float, number: int) -> None:
    tile = _tiles()[number]
    box = (80 * left, 80 * top, 80 * min(1, left + size), 80 * min(1, top + size))
    one, other = (small(picture)[None] for picture in (tile, tile.crop(box)))
    assert alignment.likeness(one, other) == pytest.approx(alignment.likeness(other, one))
    assert alignment.likeness(one, other)[0] > 0.9
    assert alignment.likeness(one, one)[0] == pytest.approx(1, abs=1e-5)


def test_plain_pictures_are_like_none() -> None:
    plain = small(Image.new("RGB", (64, 64), (200, 10, 10)))[None]
    assert alignment.likeness(plain, plain)[0] == pytest.approx(0, abs=1e-5)
