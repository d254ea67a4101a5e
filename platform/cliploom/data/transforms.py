"""Encoded images to the pixels that models see.

For evaluation exactly the reference's (openai/CLIP `_transform`, open_clip `image_transform`): bicubic resize of the
shorter side, centre crop, RGB. For training a random resized crop, decoded at a reduced scale where that can't be seen.

EXIF orientation is applied nowhere: the reference does not apply it, so the published models and figures are of
pictures as they are stored. Training does the same, so that a picture is the same way up in training and evaluation.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image

from cliploom.data.faults import BadSample

if TYPE_CHECKING:
    import torch

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of openai/CLIP, RGB
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

_MAX_PIXELS = 89_478_485  # Pillow's default limit (0.25 GiB of RGB), at which Pillow itself only warns
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # none that starts a program or reads other files
_RATIOS = (3 / 4, 4 / 3)  # width to height of training crops; torchvision's and open_clip's default
_TRIES = 10
_SPARE = 1.25  # of a reduced crop's sides over the target's; with less, what is resized has lost visible detail
_BICUBIC = ResizeAlg.convolution(FilterType.catmull_rom)

Crop = tuple[int, int, int, int]  # left, top, width, height


def open_image(data: bytes) -> Image.Image:
    """The first picture of an encoded image, decoded whole, in the file's own mode (palette, CMYK, 16 bit, ...).

    Raises:
        BadSample: "undecodable image" or "image too large".
    """
    with _faults():
        image = _header(data)
        image.load()
        return image


def decode_image(data: bytes) -> Image.Image:
    """As `open_image`, converted to RGB; transparency is dropped, as the reference does."""
    image = open_image(data)
    with _faults():
        return image.convert("RGB")


def evaluation_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The reference's pixels of a picture in any mode, uint8 [3, size, size].

    The reference converts to RGB last, so pictures with a palette or transparency come out as there only if `image` is
    in its file's own mode (`open_image`).

    Raises:
        BadSample: "image too elongated" to be resized.
    """
    width, height = image.size
    shorter, longer = min(width, height), max(width, height)
    resized = int(size * longer / shorter)
    if size * resized > _MAX_PIXELS:
        raise BadSample("image too elongated", f"{width} x {height}")
    image = image.resize((size, resized) if width <= height else (resized, size), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return _channels_first(image.crop((left, top, left + size, top + size)).convert("RGB"))


def training_pixels(data: bytes, size: int, scale: tuple[float, float], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random resized crop of an encoded image, bicubic, uint8 [3, size, size]; a view with channels last in memory.

    JPEGs are decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 that leaves the crop a quarter larger than `size`;
    libjpeg-turbo's other scales take longer than 1.

    Args:
        scale: range of the crop's area, as a share of the picture's.
        rng: of this sample alone, so that the crop depends on nothing else.

    Raises:
        BadSample: "undecodable image" or "image too large".
    """
    with _faults():
        crop = random_crop(*(_jpeg_size(data) or _header(data).size), scale, rng)
        pixels, box = _jpeg_crop(data, crop, size) or _crop(data, crop)
        return _resized(pixels, box, size).transpose(2, 0, 1)


def random_crop(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Crop:
    """A box (left, top, width, height) of random area, shape and place, drawn as by torchvision's RandomResizedCrop.

    Where no drawn shape fits in the picture, it is the largest central box of an allowed shape.
    """
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1)), wide, high
    wide = min(width, round(height * _RATIOS[1]))
    high = min(height, round(width / _RATIOS[0]))
    return (width - wide) // 2, (height - high) // 2, wide, high


class Preprocess:
    """The reference's preprocessing of a PIL picture for a model: float32 tensor [3, size, size], normalised."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> torch.Tensor:
        import torch

        pixels = torch.from_numpy(evaluation_pixels(image, self.size)).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        return (pixels - mean) / std

    def __repr__(self) -> str:
        return f"Preprocess(size={self.size})"


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (BadSample, MemoryError):  # too little memory is no fault of the sample
        raise
    except Image.DecompressionBombError as error:
        raise BadSample("image too large", str(error)) from None
    except Exception as error:  # on broken content Pillow's decoders raise anything: SyntaxError, struct.error, ...
        raise BadSample("undecodable image", str(error)) from None


def _header(data: bytes) -> Image.Image:
    """An image of which only size and format are read yet."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if image.width * image.height > _MAX_PIXELS:
        raise BadSample("image too large", f"{image.width} x {image.height}")
    return image


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG, None of others and of what libjpeg-turbo does not turn into RGB."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if width * height > _MAX_PIXELS:
        raise BadSample("image too large", f"{width} x {height}")
    return (width, height) if colours in ("YCbCr", "RGB", "Gray") else None


def _jpeg_crop(data: bytes, crop: Crop, size: int) -> tuple[NDArray[np.uint8], CropBox] | None:
    """A JPEG's RGB pixels [h, w, 3] at a reduced scale around a crop, and the crop in them.

    None where it is no JPEG, or one that libjpeg-turbo finds fault with: what is usable is Pillow's to say.
    """
    whole = _jpeg_size(data)
    if whole is None:
        return None
    left, top, width, height = crop
    reduction = next((r for r in (8, 4, 2) if min(width, height) >= _SPARE * r * size), 1)
    columns, rows = (-(-side // reduction) for side in whole)
    try:
        pixels = simplejpeg.decode_jpeg(data, min_width=columns, min_height=rows)
    except ValueError:
        return None
    x, y = left // reduction, top // reduction
    part = pixels[y : -(-(top + height) // reduction), x : -(-(left + width) // reduction)]
    # Where the crop's edges lie between reduced pixels, they do so after resizing as well.
    return part, CropBox(left / reduction - x, top / reduction - y, width / reduction, height / reduction)


def _crop(data: bytes, crop: Crop) -> tuple[NDArray[np.uint8], CropBox]:
    """As `_jpeg_crop`, of any image, at its own scale."""
    left, top, width, height = crop
    part = _header(data).crop((left, top, left + width, top + height)).convert("RGB")
    return np.asarray(part), CropBox(0, 0, width, height)


def _resized(pixels: NDArray[np.uint8], box: CropBox, size: int) -> NDArray[np.uint8]:
    """A part of RGB pixels [h, w, 3] as [size, size, 3], by the filter that Pillow calls bicubic (Catmull-Rom)."""
    height, width, _ = pixels.shape
    source, target = ImageData(width, height, PixelType.U8x3, pixels.tobytes()), ImageData(size, size, PixelType.U8x3)
    Resizer().resize(source, target, ResizeOptions(_BICUBIC, crop_box=box))
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(size, size, 3)


def _channels_first(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image).transpose(2, 0, 1).copy()
