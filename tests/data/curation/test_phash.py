from __future__ import annotations

import io

import numpy as np
from PIL import Image

from cliploom.data.curation.phash import phash


def scene(seed: int, size: int = 256) -> Image.Image:
    """Smooth patches of colour, as photographs have."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC)


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


def test_it_is_the_signs_of_the_lowest_frequencies_about_their_median() -> None:
    image = scene(1).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float64)
    waves = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)  # of the DCT-II
    low = (waves @ pixels @ waves.T).ravel()
    assert f"{phash(image):064b}" == "".join("1" if value > np.median(low) else "0" for value in low)


def test_it_changes_little_where_the_picture_does_and_much_where_it_is_another() -> None:
    for seed in range(10):
        image, code = scene(seed), phash(scene(seed))
        for same in (compressed(image), image.resize((90, 70)), image.point(lambda value: value * 0.9)):
            assert (phash(same) ^ code).bit_count() <= 4
        assert (phash(scene(seed + 100)) ^ code).bit_count() > 12


def test_plain_pictures_are_alike() -> None:
    codes = {phash(Image.new("RGB", (50, 40), (level, level, level))) for level in (3, 100, 255)}
    assert len(codes) == 1
