"""The nearest of many embeddings: exact, by one product of a matrix and a vector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cliploom import storage
from cliploom.data.faults import BadSample
from cliploom.data.transforms import open_image
from cliploom.embedding.store import Embeddings, check_model
from cliploom.errors import InputError


class Hit(NamedTuple):
    """One result."""

    row: int
    cosine: float


def nearest(vectors: np.ndarray, query: np.ndarray, count: int) -> list[Hit]:
    """The `count` rows nearest to the query, nearest first; of equal ones the first.

    Args:
        vectors: float32 [N, D], each of length 1.
        query: float32 [D], of length 1.
    """
    cosines = vectors @ query
    count = min(count, len(cosines))
    if not count:
        return []
    least = np.partition(cosines, len(cosines) - count)[len(cosines) - count]
    rows = np.flatnonzero(cosines >= least)
    rows = rows[np.argsort(-cosines[rows], kind="stable")][:count]
    return [Hit(int(row), float(cosines[row])) for row in rows]


def embed_query(embeddings: Embeddings, text: str, image: str | None) -> np.ndarray:
    """The embedding of a text, or of the picture at `image`, float32 [D] of length 1, by the embeddings' own model.

    Raises:
        InputError: there is no such picture, or it can't be decoded; or the model was changed.
    """
    import torch

    from cliploom.loading import load

    model, preprocess, tokenize = load(check_model(embeddings))
    with torch.inference_mode():
        if image is None:
            encoded = model.encode_text(tokenize(text))[0]
        else:
            encoded = model.encode_image(preprocess(open_image(_read(image)))[None])[0]
    return torch.nn.functional.normalize(encoded, dim=0).numpy()


def _read(image: str) -> bytes:
    try:
        data = storage.read(image)
        open_image(data)
    except FileNotFoundError:
        raise InputError(f"retrieve.image: there is no {image}") from None
    except BadSample as fault:
        raise InputError(f"retrieve.image: {image}: {fault.cause}") from None
    return data
