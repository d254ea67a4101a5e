"""The registered model as MLflow runs it ("models from code"): this file is copied into the model and executed there.

Frames come in with one text column: `image` (the bytes of image files, base64) or `text`; or with both, where each
row has one of them. Out comes float32 [rows, dimensions], as `encode_image` and `encode_text` give it; with the
parameter `normalize` each row has length 1.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from cliploom.data import vocabulary as vocabularies
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import Preprocess, decode_image
from cliploom.models import weights

_BATCH = 64  # rows encoded at once


class ClipEmbedder(PythonModel):
    """CLIP behind MLflow's pyfunc interface."""

    def load_context(self, context: Any) -> None:
        """Load weights and vocabulary from the model's own artifacts."""
        file = context.artifacts["weights.safetensors"]
        self._model = weights.load(Path(file)).eval()
        config = self._model.config
        self._preprocess = Preprocess(config.image_size)
        self._tokenize = Tokenizer(config.context_length, vocabularies.of_model(file, config.vocab_size))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        """Embeddings of the frame's rows.

        Raises:
            ValueError: a row has neither image nor text, or both; an image is no base64.
            BadSample: an image can't be decoded.
        """
        embeddings = np.empty((len(model_input), self._model.config.embed_dim), dtype=np.float32)
        encoders = {"image": self._encode_images, "text": self._encode_texts}
        given = {column: model_input[column].notna().to_numpy() for column in encoders if column in model_input}
        if not np.all(sum(mask.astype(int) for mask in given.values()) == 1):
            raise ValueError("each row needs either 'image' (base64) or 'text'")
        for column, mask in given.items():
            rows = np.flatnonzero(mask)
            for start in range(0, len(rows), _BATCH):
                part = rows[start : start + _BATCH]
                embeddings[part] = encoders[column](model_input[column].iloc[part].tolist())
        if params and params.get("normalize"):
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        return embeddings

    @torch.inference_mode()
    def _encode_images(self, images: list[str]) -> np.ndarray:
        pixels = torch.stack([self._preprocess(decode_image(_decode(image))) for image in images])
        return self._model.encode_image(pixels).float().numpy()

    @torch.inference_mode()
    def _encode_texts(self, texts: list[str]) -> np.ndarray:
        return self._model.encode_text(self._tokenize(texts)).float().numpy()


def _decode(image: str) -> bytes:
    try:
        return base64.b64decode(image, validate=True)
    except binascii.Error as error:
        raise ValueError(f"an image is not base64: {error}") from None


set_model(ClipEmbedder())
