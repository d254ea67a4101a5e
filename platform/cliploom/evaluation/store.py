"""Features: what a model makes of a shard's images and captions, or of a data set's class names; kept on storage.

A file is named by what it depends on: the model's weights, the way pixels are prepared and computed, and the shard's
content. Every task, data set and later evaluation that needs the same features reads the same file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from cliploom import storage

_VERSION = 3


@dataclass(frozen=True)
class Features:
    """Samples, their captions, and the L2-normalised embeddings of both; N samples, T texts, D dimensions.

    `hidden` is as the encoder gives it, not normalised; a ResNet's is its embedding.

    Those of class names have no samples, and a text for each class, in their order: the ensemble of its prompts.
    """

    keys: np.ndarray  # str [N]
    labels: np.ndarray  # str [N], as in KEY.cls, or a digit 0 or 1 a class of KEY.npy; empty where there is none
    causes: np.ndarray  # str [N], why a sample can't be used; empty where it can
    images: np.ndarray  # float32 [N, D]
    hidden: np.ndarray  # float32 [N, H], what probes see: the image encoder's output before a ViT's projection
    thumbnails: np.ndarray  # uint8 [N, 32, 32, 3], of the whole pictures, by which duplicates are found
    captions: np.ndarray  # str [T]
    owners: np.ndarray  # int64 [T], non-decreasing: the sample that each text belongs to
    texts: np.ndarray  # float32 [T, D]
    seconds: np.ndarray  # float64 [1], of the model's compute

    def __len__(self) -> int:
        return len(self.keys)

    def usable(self) -> Features:
        """Only the samples without a cause, and their captions; owners are renumbered."""
        fine = self.causes == ""
        kept = fine[self.owners]
        return replace(
            self,
            keys=self.keys[fine],
            labels=self.labels[fine],
            causes=self.causes[fine],
            images=self.images[fine],
            hidden=self.hidden[fine],
            thumbnails=self.thumbnails[fine],
            captions=self.captions[kept],
            owners=(np.cumsum(fine) - 1)[self.owners[kept]],
            texts=self.texts[kept],
        )


def concatenate(parts: Sequence[Features]) -> Features:
    """Features of several shards as those of one, in the order given; owners are renumbered."""
    starts = np.cumsum([0, *(len(part) for part in parts)])
    parts = [replace(part, owners=part.owners + start) for part, start in zip(parts, starts, strict=False)]
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Features)}
    return Features(**{**joined, "seconds": joined["seconds"].sum(keepdims=True)})


class FeatureStore:
    """The features of one model, prepared in one way, in a folder of their own.

    Args:
        uri: folder that holds the features of all models.
        model: digest of the weights.
        preparation: what else the numbers depend on: image size, precision.
    """

    def __init__(self, uri: str, model: str, preparation: str) -> None:
        self.uri = storage.join(uri, f"{hashlib.sha256(model.encode()).hexdigest()[:16]}-{preparation}")
        self._known = {file.uri for file in storage.files(self.uri)}

    def __contains__(self, digest: str) -> bool:
        return self._place(digest) in self._known

    def save(self, digest: str, features: Features) -> None:
        """Keep the features of the shard or texts of this digest."""
        data = io.BytesIO()
        np.savez(data, version=_VERSION, **{f.name: getattr(features, f.name) for f in fields(Features)})
        storage.write(self._place(digest), data.getvalue())
        self._known.add(self._place(digest))

    def load(self, digest: str) -> Features:
        """The features kept for this digest."""
        with np.load(io.BytesIO(storage.read(self._place(digest))), allow_pickle=False) as arrays:
            return Features(**{f.name: arrays[f.name] for f in fields(Features)})

    def _place(self, digest: str) -> str:
        return storage.join(self.uri, f"v{_VERSION}-{digest.replace(':', '-')}.npz")
