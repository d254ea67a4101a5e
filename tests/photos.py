"""Real photographs that come inside of Python packages, and shards of photo-like JPEGs cut from them."""

from __future__ import annotations

import functools
import importlib.resources
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cliploom.data import manifest
from cliploom.data.shards import ShardWriter

# Chosen for what they show: a building and sky, a flower's petals, a face and cloth.
_PLACES = (
    ("sklearn.datasets.images", "china.jpg"),
    ("sklearn.datasets.images", "flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
WORDS = ("photo", "small", "red", "dog", "runs", "over", "green", "grass", "near", "an", "old", "house", "river")


@functools.cache
def photographs() -> list[Image.Image]:
    """The photographs, RGB, some 500 pixels a side."""
    files = (importlib.resources.files(package).joinpath(name) for package, name in _PLACES)
    return [Image.open(io.BytesIO(file.read_bytes())).convert("RGB") for file in files]


def jpegs(count: int, seed: int, shorter: int | None = None) -> Iterator[bytes]:
    """Photo-like JPEGs, sides 320 to 640 pixels, quality 75 to 95, mostly with half the chroma as cameras do.

    Args:
        count: how many.
        seed: of which part of which photograph, and how large.
        shorter: resize at rest to this shorter side.
    """
    random = np.random.default_rng(seed)
    for _ in range(count):
        photo = photographs()[random.integers(len(photographs()))]
        width, height = random.integers(320, 641, 2)
        zoom = min(1.0, photo.width / width, photo.height / height) * random.uniform(0.7, 1)
        left, top = (
            random.uniform(0, side - zoom * part) for side, part in zip(photo.size, (width, height), strict=True)
        )
        box = (left, top, left + zoom * width, top + zoom * height)
        picture = photo.resize((int(width), int(height)), Image.Resampling.BICUBIC, box)
        if shorter:
            scale = shorter / min(picture.size)
            picture = picture.resize(
                (round(scale * picture.width), round(scale * picture.height)), Image.Resampling.BICUBIC
            )
        file = io.BytesIO()
        picture.save(
            file,
            "JPEG",
            quality=int(random.integers(75, 96)),
            subsampling=random.choice(["4:2:0", "4:4:4"], p=[0.8, 0.2]),
        )
        yield file.getvalue()


def write_shards(folder: Path, shards: int, samples: int, shorter: int | None = None, copies: int = 1) -> str:
    """Shards of `jpegs` with captions of 5 to 19 words, and their manifest; returns the manifest's URI.

    Args:
        folder: for both.
        shards: how many.
        samples: in each.
        shorter: resize at rest to this shorter side.
        copies: of each shard there are so many, under names of their own.
    """
    random = np.random.default_rng(1)
    rows = []
    for number in range(shards):
        with ShardWriter(str(folder / f"{number:05d}.tar")) as writer:
            for i, jpeg in enumerate(jpegs(samples, number, shorter)):
                caption = " ".join(random.choice(WORDS, random.integers(5, 20)))
                writer.add(f"{number:05d}{i:04d}", jpeg, "jpg", [caption])
        rows.append((writer.shard, writer.index))
    for number in range(shards, shards * copies):
        shard, index = rows[number % shards]
        copy = shutil.copy(shard.uri, folder / f"{number:05d}.tar")
        rows.append((replace(shard, uri=str(copy)), index))
    return manifest.write(str(folder / "manifest.parquet"), rows).uri
