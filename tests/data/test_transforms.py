from __future__ import annotations

import contextlib
import io
import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import photos
import reference
from cliploom.data import transforms
from cliploom.data.faults import BadSample
from cliploom.data.transforms import Preprocess, decode_image, evaluation_pixels, open_image, training_pixels

FILE_MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]
SIDES = st.integers(1, 90)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth colours with noise and an edge, the same at every call."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    noise = np.random.default_rng(0).uniform(0, 40, (height, width, 4))
    colours = np.stack([200 * x, 200 * y, 200 * (x > 0.5), 255 * (x * y)], axis=-1) + noise
    image = Image.fromarray(colours.clip(0, 255).astype(np.uint8), "RGBA")
    if mode == "I;16":
        return Image.fromarray((colours[..., 0] * 200).astype(np.uint16))
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def reference_pixels(image: Image.Image, size: int) -> torch.Tensor:
    reference.import_torchvision()
    from torchvision import transforms as T

    steps = [T.Resize(size, T.InterpolationMode.BICUBIC), T.CenterCrop(size), lambda i: i.convert("RGB")]
    return T.Compose([*steps, T.PILToTensor()])(image)


@given(width=SIDES, height=SIDES, size=st.integers(1, 70), mode=st.sampled_from(FILE_MODES))
@settings(max_examples=150, deadline=None)
def test_evaluation_equals_the_reference_to_the_pixel(width: int, height: int, size: int, mode: str) -> None:
    image = picture(width, height, mode)
    assert torch.from_numpy(evaluation_pixels(image, size)).equal(reference_pixels(image, size))


@pytest.mark.parametrize("sides", [(640, 427), (427, 640), (224, 224), (225, 224), (500, 333), (1023, 767), (3, 1000)])
def test_evaluation_equals_the_reference_at_usual_sizes(sides: tuple[int, int]) -> None:
    image = picture(*sides)
    pixels = evaluation_pixels(image, 224)
    assert torch.from_numpy(pixels).equal(reference_pixels(image, 224))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("mode", FILE_MODES)
def test_preprocess_equals_open_clip_s(mode: str) -> None:
    transform = reference.import_open_clip().transform
    image = picture(301, 200, mode)
    tensor = Preprocess(96)(image)
    assert tensor.dtype == torch.float32
    assert tensor.equal(transform.image_transform(96, is_train=False)(image))


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image = picture(60, 40)
    turned = encoded(image, "PNG", exif=exif)
    assert np.array_equal(evaluation_pixels(open_image(turned), 32), evaluation_pixels(image, 32))
    crops = [training_pixels(data, 32, (1, 1), np.random.default_rng(0)) for data in (turned, encoded(image))]
    assert np.array_equal(crops[0], crops[1])


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *(("CMYK", "JPEG"), ("L", "JPEG"), ("P", "PNG"), ("P", "GIF"), ("1", "PNG"), ("I;16", "PNG"), ("LA", "PNG")),
        *(("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGB", "WEBP"), ("RGB", "AVIF"), ("RGB", "BMP"), ("RGB", "TIFF")),
    ],
)
def test_files_of_all_kinds_become_rgb(mode: str, form: str) -> None:
    data = encoded(picture(50, 40, mode), form)
    plain = Image.open(io.BytesIO(data))
    assert open_image(data).mode == plain.mode
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(plain.convert("RGB")))
    assert training_pixels(data, 16, (0.5, 1), np.random.default_rng(0)).shape == (3, 16, 16)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_picture_counts(form: str) -> None:
    first, second = picture(40, 30), Image.new("RGB", (40, 30), "red")
    data = encoded(first, form, save_all=True, append_images=[second], **({"lossless": True} if form == "WEBP" else {}))
    difference = np.asarray(decode_image(data)).astype(int) - np.asarray(first)
    assert np.abs(difference).mean() < 20  # a GIF has 256 colours


@given(width=SIDES, height=SIDES, size=st.integers(1, 64), seed=st.integers(0, 2**32), low=st.floats(0.05, 1))
@settings(max_examples=100, deadline=None)
def test_training_equals_the_reference_at_its_crop(width: int, height: int, size: int, seed: int, low: float) -> None:
    reference.import_torchvision()
    from torchvision.transforms import functional as F

    image = picture(width, height)
    pixels = training_pixels(encoded(image), size, (low, 1), np.random.default_rng(seed))
    left, top, wide, high = transforms.random_crop(width, height, (low, 1), np.random.default_rng(seed))
    expected = F.resized_crop(image, top, left, high, wide, [size, size], F.InterpolationMode.BICUBIC)
    # Pillow rounds, and cuts overshoots off, between its two passes: single pixels may differ, not the picture.
    difference = np.abs(pixels.astype(int) - F.pil_to_tensor(expected).numpy())
    assert difference.max() <= 32
    assert difference.mean() < 0.8 or difference.max() == 1  # a picture of one pixel may be rounded otherwise


@given(width=SIDES, height=SIDES, seed=st.integers(0, 2**32), low=st.floats(0.01, 1), high=st.floats(0.01, 1))
def test_crops_stay_inside_and_in_range(width: int, height: int, seed: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    left, top, wide, tall = transforms.random_crop(width, height, (low, high), np.random.default_rng(seed))
    assert 0 <= left <= left + wide <= width
    assert 0 <= top <= top + tall <= height
    assert wide * tall > 0
    within = (wide - 0.5) * (tall - 0.5) <= high * width * height and (wide + 0.5) * (
        tall + 0.5
    ) >= low * width * height
    assert within or wide == width or tall == height


def test_crops_are_spread_evenly() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([transforms.random_crop(1000, 1000, (0.2, 0.6), rng) for _ in range(4000)])
    areas = boxes[:, 2] * boxes[:, 3] / 1e6
    assert areas.mean() == pytest.approx(0.4, abs=0.01)
    assert np.log(boxes[:, 2] / boxes[:, 3]).std() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), abs=0.01)
    places = boxes[:, :2] / (1000 - boxes[:, 2:])
    assert places.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.02)
    assert places.std(axis=0) == pytest.approx([1 / math.sqrt(12)] * 2, abs=0.02)


@pytest.mark.parametrize("sides", [(1000, 750), (751, 1001), (513, 511)])
@pytest.mark.parametrize("size", [32, 64, 200])
def test_decoding_at_a_smaller_scale_shows_the_same_crop(sides: tuple[int, int], size: int) -> None:
    image = picture(*sides)
    jpeg = encoded(image, "JPEG", quality=95, subsampling=0)
    for seed in range(5):
        small, whole = (
            training_pixels(data, size, (0.3, 1), np.random.default_rng(seed)).astype(int)
            for data in (jpeg, encoded(decode_image(jpeg)))
        )
        assert np.abs(small - whole).mean() < 4


@given(width=st.integers(1, 400), height=st.integers(1, 400), size=st.integers(1, 64), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_smaller_scale_never_costs_resolution(width: int, height: int, size: int, seed: int) -> None:
    """What is reduced stays larger than `size` by a quarter, and is reduced as far as that allows."""
    jpeg = encoded(Image.new("L", (width, height)), "JPEG")
    crop = transforms.random_crop(width, height, (0.2, 1), np.random.default_rng(seed))
    found = transforms._jpeg_crop(jpeg, crop, size)
    assert found is not None
    pixels, box = found
    assert box.left + box.width <= pixels.shape[1] < box.left + box.width + 1
    assert box.top + box.height <= pixels.shape[0] < box.top + box.height + 1
    reduction = crop[2] / box.width
    assert reduction in (1, 2, 4, 8)
    assert crop[3] / box.height == reduction
    shorter = min(box.width, box.height)
    assert reduction == 1 or shorter >= 1.25 * size
    assert reduction == 8 or shorter < 2.5 * size


def plain_pixels(jpeg: bytes, size: int, seed: int) -> np.ndarray[Any, Any]:
    """The crop by Pillow alone, decoded whole."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    left, top, width, height = transforms.random_crop(*image.size, (0.9, 1), np.random.default_rng(seed))
    crop = image.crop((left, top, left + width, top + height))
    return np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def psnr(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / max(1e-9, float(np.mean((a.astype(float) - b) ** 2)))))


@pytest.mark.parametrize(("size", "reduced"), [(224, False), (160, False), (96, True), (64, True)])
def test_photographs_are_as_by_the_plain_path(size: int, reduced: bool) -> None:
    """Of photographs of 320 to 640 pixels, the larger the more often reduced, at 96 and at 64 pixels nearly all."""
    ratios, at_full_scale = [], []
    for seed, jpeg in enumerate(photos.jpegs(60, size)):
        ratios.append(
            psnr(plain_pixels(jpeg, size, seed), training_pixels(jpeg, size, (0.9, 1), np.random.default_rng(seed)))
        )
        crop = transforms.random_crop(*Image.open(io.BytesIO(jpeg)).size, (0.9, 1), np.random.default_rng(seed))
        if min(crop[2:]) < 2.5 * size:
            at_full_scale.append(ratios[-1])
    assert np.percentile(ratios, 5) >= 35
    assert len(at_full_scale) < 10 if reduced else min(at_full_scale) > 50


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 30,000 pixels square."""
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[16:24] = (30_000).to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


BROKEN = {
    "nothing": b"",
    "text": b"<html>404</html>",
    "truncated JPEG": encoded(picture(90, 90), "JPEG")[:-400],
    "truncated PNG": encoded(picture(90, 90))[:-400],
    "truncated WebP": encoded(picture(90, 90), "WEBP")[:-400],
    "EPS, which would start Ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_images_are_bad_samples(data: bytes) -> None:
    with pytest.raises(BadSample, match="undecodable image"):
        open_image(data)
    with pytest.raises(BadSample, match="undecodable image"):
        training_pixels(data, 16, (0.9, 1), np.random.default_rng(0))


def test_bombs_are_bad_samples() -> None:
    for decode in (
        open_image,
        decode_image,
        lambda data: training_pixels(data, 16, (0.9, 1), np.random.default_rng(0)),
    ):
        with pytest.raises(BadSample) as caught:
            decode(bomb())
        assert caught.value.cause == "image too large"
    with pytest.raises(BadSample, match="too elongated"):
        evaluation_pixels(Image.new("L", (1, 20_000)), 224)


@given(form=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF"]), data=st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_files_decode_or_are_bad_samples(form: str, data: st.DataObject) -> None:
    file = bytearray(encoded(picture(24, 20), form))
    for place in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=8)):
        file[place] = data.draw(st.integers(0, 255))
    for decode in (decode_image, lambda file: training_pixels(file, 8, (0.5, 1), np.random.default_rng(0))):
        with contextlib.suppress(BadSample):
            decode(bytes(file))
