"""Embeddings in a folder: a parquet a source, the model that made them, and a manifest that says what they are.

PART.parquet      rows {key, embedding: float32 [D], of length 1}; which source, and what of it could not be read
model/            the weights, so that a query goes through the very model that made the embeddings
embeddings.json   format version, model with its digest, source, parts with their rows and bytes; written last
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom import storage
from cliploom.errors import InputError
from cliploom.evaluation.model import Model
from cliploom.evaluation.store import Features

VERSION = 2  # since the model's digest covers its config
MANIFEST, MODEL, _UNDERWAY = "embeddings.json", "model", "model.json"
_ABOUT = b"cliploom.embeddings"


class Part(NamedTuple):
    """The embeddings of one source."""

    file: str
    source: str  # URI of the shard, or of the first of a lot of files
    rows: int
    bytes: int
    broken: list[list[str]]  # key and cause of what could not be read


@dataclass(frozen=True)
class Embeddings:
    """What a folder holds, read by `load`: N embeddings, in the order of the manifest's parts."""

    uri: str
    source: str  # what was embedded
    model: dict[str, Any]  # name, version, digest, ...
    keys: list[str]
    places: list[str]  # [N], the source of each
    vectors: np.ndarray  # float32 [N, D], each of length 1


class EmbeddingStore:
    """Takes features as they come, in place of evaluation's own store.

    Args:
        uri: folder of the embeddings.
        model: that makes them.
        names: by digest: the URI of each source, for people.

    Raises:
        InputError: the folder holds another model's embeddings, or those of another format.
    """

    def __init__(self, uri: str, model: Model, names: dict[str, str]) -> None:
        self.uri, self.model, self._names = uri, model, names
        self._about = {"format_version": VERSION, "model": _identity(model)}
        before = _read(storage.join(uri, _UNDERWAY))
        if before is not None and before != self._about:
            raise InputError(
                f"embed.output: {uri} holds embeddings of another model or format ({_said(before)}, now "
                f"{_said(self._about)}): name another folder, or delete it"
            )
        storage.write(storage.join(uri, _UNDERWAY), _json(self._about))
        self._known = {storage.name(file.uri): file.size for file in storage.files(uri)}

    def __contains__(self, digest: str) -> bool:
        return _file(digest) in self._known

    def save(self, digest: str, features: Features) -> None:
        """Keep the embeddings of a source."""
        usable = features.usable()
        width = features.images.shape[1]
        values = pa.array(usable.images.ravel(), pa.float32())
        rows = pa.table(
            {
                "key": pa.array(usable.keys.tolist(), pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(values, width),
            }
        )
        bad = features.causes != ""
        broken = [list(pair) for pair in zip(features.keys[bad].tolist(), features.causes[bad].tolist(), strict=True)]
        about = {**self._about, "source": self._names[digest], "digest": digest, "broken": broken}
        sink = pa.BufferOutputStream()
        pq.write_table(rows.replace_schema_metadata({_ABOUT: json.dumps(about)}), sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        storage.write(storage.join(self.uri, _file(digest)), data)
        self._known[_file(digest)] = len(data)

    def finish(self, source: str, digests: Sequence[str]) -> list[Part]:
        """Write the manifest over the parts of these digests; returns them."""
        parts = [self._part(_file(digest)) for digest in digests]
        told = {**self._about, "source": source, "rows": sum(part.rows for part in parts)}
        listed = [part._asdict() for part in parts]
        storage.write(storage.join(self.uri, MANIFEST), _json({**told, "parts": listed}))
        return parts

    def _part(self, name: str) -> Part:
        with _open(storage.join(self.uri, name)) as file:
            about = json.loads(file.schema_arrow.metadata[_ABOUT])
            return Part(name, about["source"], file.metadata.num_rows, self._known[name], about["broken"])


def load(uri: str) -> Embeddings:
    """All embeddings of a folder.

    Raises:
        InputError: there are none, or not all yet; or they are of another format, or not those that were written.
    """
    told = _read(storage.join(uri, MANIFEST))
    if told is None:
        state = (
            "are not complete: run" if storage.exists(storage.join(uri, _UNDERWAY)) else "are not there: make them by"
        )
        raise InputError(f"retrieve.embeddings: the embeddings in {uri} {state} jobs/embed.py")
    if told["format_version"] != VERSION:
        raise InputError(
            f"{uri} has embeddings of format {told['format_version']}, this cliploom reads {VERSION}: make them anew "
            "by jobs/embed.py, in another folder"
        )
    keys: list[str] = []
    places: list[str] = []
    vectors = np.empty((told["rows"], told["model"]["dimensions"]), np.float32)
    for part in (Part(**part) for part in told["parts"]):
        place = storage.join(uri, part.file)
        if storage.size(place) != part.bytes:
            raise InputError(f"{place} is not the file that {MANIFEST} lists: run jobs/embed.py again")
        with _open(place) as file:
            table = file.read()
        rows = table["embedding"].combine_chunks().flatten().to_numpy().reshape(part.rows, vectors.shape[1])
        vectors[len(keys) : len(keys) + part.rows] = rows
        keys += table["key"].to_pylist()
        places += [part.source] * part.rows
    return Embeddings(uri, told["source"], told["model"], keys, places, vectors)


def check_model(embeddings: Embeddings) -> str:
    """The folder of the model that made the embeddings.

    Raises:
        InputError: its weights are not those.
    """
    from cliploom.evaluation.model import digest

    folder = storage.join(embeddings.uri, MODEL)
    if digest(folder) != embeddings.model["digest"]:
        raise InputError(f"{folder} is not the model that made the embeddings: its digest is another")
    return folder


def _identity(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "digest": model.digest,
        "image_size": model.image_size,
        "dimensions": model.dimensions,
    }


def _said(about: dict[str, Any]) -> str:
    model = about.get("model", {})
    return f"{model.get('name')} {model.get('version') or ''} {str(model.get('digest'))[:19]}".replace("  ", " ")


def _file(digest: str) -> str:
    return f"part-{hashlib.sha256(digest.encode()).hexdigest()[:24]}.parquet"


def _open(uri: str) -> pq.ParquetFile:
    system, path = storage.filesystem(uri)
    return pq.ParquetFile(path, filesystem=system)


def _read(uri: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(storage.read(uri))
    except FileNotFoundError:
        return None
    return found


def _json(told: dict[str, Any]) -> bytes:
    return (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode()
