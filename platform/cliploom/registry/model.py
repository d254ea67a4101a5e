"""The registered model as MLflow runs it ("models from code"): this file is copied into the model and executed there.

Frames come in with one text column: `image` (the bytes of image files, base64, or a URL of an origin that the variable
CLIPLOOM_IMAGE_ORIGINS names) or `text`; or with both, where each row has one of them. Out comes float32 [rows,
dimensions], as `encode_image` and `encode_text` give it; with the parameter `normalize` each row has length 1. With the
parameter `classes`, a list of names, out come zero-shot probabilities, float32 [rows, classes]; `templates` are the
prompts that are made of each name, whose embeddings are averaged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from torch.nn import functional as F

from cliploom.data import remote
from cliploom.data import vocabulary as vocabularies
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import Preprocess, decode_image
from cliploom.models import weights
from cliploom.models.clip import LOGIT_SCALE_MAX

_BATCH = 64  # rows encoded at once


class ClipEmbedder(PythonModel):
    """CLIP behind MLflow's pyfunc interface."""

    def load_context(self, context: Any) -> None:
        """Load weights and vocabulary from the model's own artifacts.

        Raises:
            ValueError: a file is not the one that was registered.
        """
        for name, digest in context.model_config["digests"].items():
            with Path(context.artifacts[name]).open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
                    raise ValueError(f"{name} is not the file that was registered: its digest is another")
        file = context.artifacts["weights.safetensors"]
        self._model = weights.load(Path(file)).eval()
        config = self._model.config
        self._preprocess = Preprocess(config.image_size)
        self._tokenize = Tokenizer(config.context_length, vocabularies.of_model(file, config.vocab_size))
        self._origins = os.environ.get(remote.ORIGINS, "").replace(" ", "").split(",")

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        """Embeddings of the frame's rows, or probabilities.

        Raises:
            ValueError: a row has neither image nor text, or both; an image is no base64, or of an origin that is not
                allowed; a template has no {c}.
            BadSample: an image can't be decoded.
        """
        asked = params or {}
        embeddings = self._embed(model_input)
        classes = [str(name) for name in asked.get("classes", [])]
        if classes:
            return self._probabilities(embeddings, classes, [str(text) for text in asked["templates"]])
        if asked.get("normalize"):
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings

    def _embed(self, frame: pd.DataFrame) -> np.ndarray:
        """float32 [rows, D]."""
        embeddings = np.empty((len(frame), self._model.config.embed_dim), dtype=np.float32)
        encoders = {"image": self._encode_images, "text": self._encode_texts}
        given = {column: frame[column].notna().to_numpy() for column in encoders if column in frame}
        if not np.all(sum(mask.astype(int) for mask in given.values()) == 1):
            raise ValueError("each row needs either 'image' (base64 or URL) or 'text'")
        for column, mask in given.items():
            rows = np.flatnonzero(mask)
            for start in range(0, len(rows), _BATCH):
                part = rows[start : start + _BATCH]
                embeddings[part] = encoders[column](frame[column].iloc[part].tolist())
        return embeddings

    def _probabilities(self, embeddings: np.ndarray, classes: list[str], templates: list[str]) -> np.ndarray:
        """float32 [rows, classes]; each row sums to 1 (Radford et al. 2021, 3.1.4 on ensembles of prompts)."""
        if wrong := [template for template in templates if "{c}" not in template] or not templates:
            raise ValueError(f"templates need {{c}} where the class's name belongs, which {wrong} have not")
        prompts = [template.replace("{c}", name) for name in classes for template in templates]
        lots = [prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH)]
        encoded = torch.from_numpy(np.concatenate([self._encode_texts(lot) for lot in lots]))
        averaged = F.normalize(encoded, dim=-1).unflatten(0, (len(classes), -1)).mean(1)
        scale = math.exp(min(self._model.logit_scale.item(), LOGIT_SCALE_MAX))
        cosines = F.normalize(torch.from_numpy(embeddings), dim=-1) @ F.normalize(averaged, dim=-1).T
        return (scale * cosines).softmax(-1).numpy()

    @torch.inference_mode()
    def _encode_images(self, images: list[str]) -> np.ndarray:
        pixels = torch.stack([self._preprocess(decode_image(self._bytes(image))) for image in images])
        return self._model.encode_image(pixels).float().numpy()

    @torch.inference_mode()
    def _encode_texts(self, texts: list[str]) -> np.ndarray:
        return self._model.encode_text(self._tokenize(texts)).float().numpy()

    def _bytes(self, image: str) -> bytes:
        if remote.is_url(image):
            return remote.fetch(image, self._origins)
        try:
            return base64.b64decode(image, validate=True)
        except binascii.Error as error:
            raise ValueError(f"an image is neither a URL nor base64: {error}") from None


set_model(ClipEmbedder())
