"""From samples and class names to what a model takes. No torch: decoding workers start fast without it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from cliploom.data import vocabulary as vocabularies
from cliploom.data.faults import BadSample
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import evaluation_pixels
from cliploom.evaluation.datasets import Sample
from cliploom.evaluation.frames import pictures
from cliploom.evaluation.model import Model

SIDE = 32  # pixels of a thumbnail


@dataclass(frozen=True)
class Batch:
    """Prepared input of the model, with what is known of each sample."""

    keys: Sequence[str]
    labels: Sequence[str]
    causes: Sequence[str]  # empty where the sample's image can be used
    pixels: np.ndarray  # uint8 [N * F, 3, H, W]; zeros where it can't
    thumbnails: np.ndarray  # uint8 [N, 32, 32, 3]; zeros where it can't
    captions: Sequence[str]  # what each averaged text is called
    owners: Sequence[int]
    tokens: np.ndarray  # int32 [T * G, L]
    group: int = 1  # G
    frames: int = 1  # F


@functools.lru_cache(maxsize=2)
def tokenizer(model: Model) -> Tokenizer:
    """The model's tokenizer; made once a process, since its vocabulary takes a moment to read."""
    return Tokenizer(model.context_length, vocabularies.of_model(model.uri, model.vocab_size))


def prepare_samples(
    samples: Sequence[Sample], model: Model, threads: ThreadPoolExecutor, frames: int = 1, prompt: str = "{c}"
) -> Batch:
    """Decode, resize and tokenize samples. One whose image can't be used gets a cause instead.

    Pillow releases the interpreter's lock, so that images are decoded by several threads at once.

    Args:
        samples: of a shard.
        model: whose input they become.
        threads: that decode.
        frames: of a video.
        prompt: that captions are put into, with {c} for the caption.
    """
    pixels = np.zeros((len(samples), frames, 3, model.image_size, model.image_size), np.uint8)
    thumbnails = np.zeros((len(samples), SIDE, SIDE, 3), np.uint8)
    causes = list(threads.map(_paint, samples, pixels, thumbnails))
    lines = [(i, line) for i, sample in enumerate(samples) for line in _captions(sample)]
    captions = [line for _, line in lines]
    return Batch(
        keys=[sample.key for sample in samples],
        labels=[_text(sample.label).strip() for sample in samples],
        causes=causes,
        pixels=pixels.reshape(-1, *pixels.shape[2:]),
        thumbnails=thumbnails,
        captions=captions,
        owners=[i for i, _ in lines],
        tokens=tokenizer(model).encode_batch([prompt.replace("{c}", caption) for caption in captions]),
        frames=frames,
    )


def prepare_classes(names: Sequence[str], templates: Sequence[str], model: Model) -> Batch:
    """Tokenize every template filled with every name."""
    prompts = [template.replace("{c}", name) for name in names for template in templates]
    return Batch(
        keys=[],
        labels=[],
        causes=[],
        pixels=np.zeros((0, 3, 1, 1), np.uint8),
        thumbnails=np.zeros((0, SIDE, SIDE, 3), np.uint8),
        captions=list(names),
        owners=[0] * len(names),
        tokens=tokenizer(model).encode_batch(prompts),
        group=len(templates),
    )


def _paint(sample: Sample, pixels: np.ndarray, thumbnail: np.ndarray) -> str:
    """Write the sample's pictures to `pixels` [F, 3, H, W], and the middle one to `thumbnail` [32, 32, 3]; returns why
    it can't, or nothing."""
    try:
        found = pictures(sample, len(pixels))
        for row, image in zip(pixels, found, strict=True):
            row[:] = evaluation_pixels(image, pixels.shape[-1])
        thumbnail[:] = small(found[len(found) // 2])
    except BadSample as fault:
        return fault.cause
    return ""


def small(image: Image.Image) -> np.ndarray:
    """A picture's thumbnail, uint8 [32, 32, 3]: the mean of the pixels under each of its own."""
    return np.array(image.convert("RGB").resize((SIDE, SIDE), Resampling.BOX))


def _captions(sample: Sample) -> list[str]:
    return [line for line in _text(sample.captions).splitlines() if line.strip()]


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")
