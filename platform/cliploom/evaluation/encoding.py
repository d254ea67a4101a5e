"""From prepared batches to features: the model. Torch alone; runs in any process."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cliploom import storage
from cliploom.errors import InputError
from cliploom.evaluation.model import CONFIG, WEIGHTS
from cliploom.evaluation.preparing import Batch
from cliploom.evaluation.store import Features
from cliploom.models import CLIP, normalize_pixels, weights
from cliploom.settings.base import Precision

TEXTS_AT_ONCE = 128


class Encoder:
    """A model that turns batches into features.

    Args:
        uri: folder with weights.safetensors and config.json, local or on S3.
        device: "cpu" or "cuda".
        precision: of the compute; features are fp32 either way.
    """

    def __init__(self, uri: str, device: str = "cpu", precision: Precision = "fp32") -> None:
        self.device = torch.device(device)
        self.precision = precision
        self.model = _load(uri).eval().to(self.device)
        self._pooled: torch.Tensor | None = None  # what a ViT's projection was given last
        if not self.model.config.is_resnet:
            self.model.get_submodule("visual.ln_post").register_forward_hook(self._keep)

    @torch.inference_mode()
    def encode(self, batch: Batch) -> Features:
        """The features of a batch. A sample with an embedding that is not finite gets that for a cause.

        Raises:
            InputError: a class's embedding is not finite.
        """
        begun = time.perf_counter()
        images, hidden = self._images(batch.pixels, batch.frames)
        texts = self._texts(batch.tokens, batch.group)
        finite, bad_texts = np.isfinite(images).all(1), np.flatnonzero(~np.isfinite(texts).all(1))
        if len(bad_texts) and not batch.keys:
            name = batch.captions[bad_texts[0]]
            raise InputError(f"the model's embedding of the class {name} is not finite: its weights are broken")
        finite[np.array(batch.owners, np.int64)[bad_texts]] = False
        causes = [
            cause or ("" if good else "features not finite") for cause, good in zip(batch.causes, finite, strict=True)
        ]
        return Features(
            keys=np.array(batch.keys, np.str_),
            labels=np.array(batch.labels, np.str_),
            causes=np.array(causes, np.str_),
            images=images,
            hidden=hidden,
            thumbnails=batch.thumbnails,
            captions=np.array(batch.captions, np.str_),
            owners=np.array(batch.owners, np.int64),
            texts=texts,
            seconds=np.array([time.perf_counter() - begun]),
        )

    def _images(self, pixels: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 [N * F, 3, H, W] -> normalised embeddings [N, D], and features before the projection [N, H].

        Both are averaged over the F frames of a sample, the embeddings as those of prompts are.
        """
        config = self.model.config
        if not len(pixels):
            width = config.embed_dim if config.is_resnet else config.vision_width
            return np.zeros((0, config.embed_dim), np.float32), np.zeros((0, width), np.float32)
        with self._computing():
            images = normalize_pixels(torch.from_numpy(pixels).to(self.device), torch.float32)
            embedded = self.model.encode_image(images)
        hidden = (embedded if self._pooled is None else self._pooled).float()
        normalized = F.normalize(embedded.float(), dim=-1)
        if frames > 1:
            hidden = hidden.unflatten(0, (-1, frames)).mean(1)
            normalized = F.normalize(normalized.unflatten(0, (-1, frames)).mean(1), dim=-1)
        return normalized.cpu().numpy(), hidden.cpu().numpy()

    def _keep(self, module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self._pooled = output

    def _texts(self, tokens: np.ndarray, group: int) -> np.ndarray:
        """Tokens [T * G, L] -> [T, D]: each normalised, averaged by groups of G, normalised (Radford et al., 3.1.4).

        Texts are encoded in order of length, so that the model can cut each lot at its longest.
        """
        features = torch.zeros(len(tokens), self.model.config.embed_dim, device=self.device)
        if not len(tokens):
            return features.cpu().numpy()
        by_length = torch.from_numpy(tokens.argmax(1)).argsort()  # the end token has the highest id
        for rows in by_length.split(TEXTS_AT_ONCE):
            with self._computing():
                encoded = self.model.encode_text(torch.from_numpy(tokens)[rows].long().to(self.device))
            features[rows.to(self.device)] = F.normalize(encoded.float(), dim=-1)
        return F.normalize(features.unflatten(0, (-1, group)).mean(1), dim=-1).cpu().numpy()

    def _computing(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()


def _load(uri: str) -> CLIP:
    if not storage.is_s3(uri):
        return weights.load(storage.local(uri))
    with tempfile.TemporaryDirectory() as folder:
        for name in (WEIGHTS, CONFIG):
            storage.download(storage.join(uri, name), Path(folder, name))
        return weights.load(Path(folder))
