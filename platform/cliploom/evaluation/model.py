"""The model under evaluation: where its weights are, and what the stages have to know of it."""

from __future__ import annotations

import hashlib
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cliploom import storage

WEIGHTS, CONFIG = "weights.safetensors", "config.json"


@dataclass(frozen=True)
class Model:
    """A model in a folder that every node can read. Made by `publish`."""

    name: str
    version: int | None  # in the registry; None for a file
    uri: str  # folder with WEIGHTS and CONFIG
    digest: str  # of the weights as cliploom writes them, whatever they were read from
    image_size: int  # pixels a side
    context_length: int  # tokens
    logit_scale: float  # factor on cosines

    @property
    def title(self) -> str:
        """Name and version, as people say it."""
        return self.name if self.version is None else f"{self.name} version {self.version}"


def publish(weights: Path, uri: str, name: str, version: int | None = None) -> Model:
    """Put a model into the folder `uri`.

    Args:
        weights: local file or folder in any format that `cliploom.models.weights` reads.
        uri: local or S3 folder; what it holds is replaced.
        name: in results and reports.
        version: of the registered model.

    Raises:
        InputError: `weights` are no model's.
    """
    from cliploom.models import weights as files
    from cliploom.models.clip import LOGIT_SCALE_MAX

    loaded = files.load(weights)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files.save(loaded, folder)
        with (folder / WEIGHTS).open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        for part in (WEIGHTS, CONFIG):
            storage.upload(folder / part, storage.join(uri, part))
    return Model(
        name=name,
        version=version,
        uri=storage.absolute(uri),
        digest=digest,
        image_size=loaded.config.image_size,
        context_length=loaded.config.context_length,
        logit_scale=math.exp(min(loaded.logit_scale.item(), LOGIT_SCALE_MAX)),
    )
