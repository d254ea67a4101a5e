"""From samples and class names to what a model takes. No torch: decoding workers start fast without it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cliploom.data import vocabulary as vocabularies
from cliploom.data.curation.phash import phash
from cliploom.data.faults import BadSample
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import evaluation_pixels
from cliploom.evaluation.datasets import Sample
from cliploom.evaluation.frames import picture
from cliploom.evaluation.model import Model


@dataclass(frozen=True)
class Batch:
    """Prepared input of the model, with what is known of each sample."""

    keys: Sequence[str]
    labels: Sequence[str]
    causes: Sequence[str]  # empty where the sample's image can be used
    pixels: np.ndarray  # uint8 [N, 3, H, W]; zeros where it can't
    hashes: np.ndarray  # uint64 [N], perceptual
    captions: Sequence[str]  # what each averaged text is called
    owners: Sequence[int]
    tokens: np.ndarray  # int32 [T * G, L]
    group: int = 1  # G


@functools.lru_cache(maxsize=2)
def tokenizer(model: Model) -> Tokenizer:
    """The model's tokenizer; made once a process, since its vocabulary takes a moment to read."""
    return Tokenizer(model.context_length, vocabularies.of_model(model.uri, model.vocab_size))


def prepare_samples(samples: Sequence[Sample], model: Model, threads: ThreadPoolExecutor) -> Batch:
    """Decode, resize and tokenize samples. One whose image can't be used gets a cause instead.

    Pillow releases the interpreter's lock, so that images are decoded by several threads at once.
    """
    pixels = np.zeros((len(samples), 3, model.image_size, model.image_size), np.uint8)
    hashes = np.zeros(len(samples), np.uint64)
    causes = list(threads.map(_paint, samples, pixels, hashes[:, None]))
    lines = [(i, line) for i, sample in enumerate(samples) for line in _captions(sample)]
    captions = [line for _, line in lines]
    return Batch(
        keys=[sample.key for sample in samples],
        labels=[_text(sample.label).strip() for sample in samples],
        causes=causes,
        pixels=pixels,
        hashes=hashes,
        captions=captions,
        owners=[i for i, _ in lines],
        tokens=tokenizer(model).encode_batch(captions),
    )


def prepare_classes(names: Sequence[str], templates: Sequence[str], model: Model) -> Batch:
    """Tokenize every template filled with every name."""
    prompts = [template.replace("{c}", name) for name in names for template in templates]
    return Batch(
        keys=[],
        labels=[],
        causes=[],
        pixels=np.zeros((0, 3, 1, 1), np.uint8),
        hashes=np.zeros(0, np.uint64),
        captions=list(names),
        owners=[0] * len(names),
        tokens=tokenizer(model).encode_batch(prompts),
        group=len(templates),
    )


def _paint(sample: Sample, pixels: np.ndarray, code: np.ndarray) -> str:
    """Write the sample's image to `pixels` [3, H, W] and its hash to `code` [1]; returns why it can't, or nothing."""
    try:
        image = picture(sample)
        pixels[:] = evaluation_pixels(image, pixels.shape[-1])
        code[:] = phash(image)
    except BadSample as fault:
        return fault.cause
    return ""


def _captions(sample: Sample) -> list[str]:
    return [line for line in _text(sample.captions).splitlines() if line.strip()]


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")
