"""The model under evaluation: where its weights are, and what the stages have to know of it."""

from __future__ import annotations

import hashlib
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cliploom import storage
from cliploom.data import vocabulary as vocabularies

WEIGHTS, CONFIG = "weights.safetensors", "config.json"


@dataclass(frozen=True)
class Model:
    """A model in a folder that every node can read. Made by `publish`."""

    name: str
    version: int | None  # in the registry; None for a file
    uri: str  # folder with WEIGHTS, CONFIG, and the vocabulary where it is the model's own
    digest: str  # of WEIGHTS and CONFIG as cliploom writes them, whatever they were read from, and of such a vocabulary
    image_size: int  # pixels a side
    dimensions: int  # of embeddings
    context_length: int  # tokens
    vocab_size: int  # token ids
    logit_scale: float  # factor on cosines

    @property
    def title(self) -> str:
        """Name and version, as people say it."""
        return self.name if self.version is None else f"{self.name} version {self.version}"


def digest(uri: str) -> str:
    """The digest of the model that `publish` has put into the folder `uri`, from its files as they are now."""
    with storage.opened(storage.join(uri, WEIGHTS)) as file:
        content = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # what is opened has readinto
    content.update(storage.read(storage.join(uri, CONFIG)))
    place = storage.join(uri, vocabularies.NAME)
    if storage.exists(place):
        content.update(vocabularies.load(place).digest.encode())
    return f"sha256:{content.hexdigest()}"


def publish(weights: Path, uri: str, name: str, version: int | None = None) -> Model:
    """Put a model into the folder `uri`.

    Args:
        weights: local file or folder in any format that `cliploom.models.weights` reads, perhaps with a vocabulary.
        uri: local or S3 folder; what it holds is replaced.
        name: in results and reports.
        version: of the registered model.

    Raises:
        InputError: `weights` are no model's, or not of their vocabulary.
    """
    from cliploom.models import weights as files
    from cliploom.models.clip import LOGIT_SCALE_MAX

    loaded = files.load(weights)
    vocabulary = vocabularies.of_model(str(weights), loaded.config.vocab_size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files.save(loaded, folder)
        parts = [WEIGHTS, CONFIG]
        if vocabulary == vocabularies.clip():
            storage.delete(storage.join(uri, vocabularies.NAME))
        else:
            (folder / vocabularies.NAME).write_bytes(vocabulary.pack())
            parts.append(vocabularies.NAME)
        for part in parts:
            storage.upload(folder / part, storage.join(uri, part))
        content = digest(temporary)
    return Model(
        name=name,
        version=version,
        uri=storage.absolute(uri),
        digest=content,
        image_size=loaded.config.image_size,
        dimensions=loaded.config.embed_dim,
        context_length=loaded.config.context_length,
        vocab_size=loaded.config.vocab_size,
        logit_scale=math.exp(min(loaded.logit_scale.item(), LOGIT_SCALE_MAX)),
    )
