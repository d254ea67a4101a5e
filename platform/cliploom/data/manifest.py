"""The manifest: which shards a data set has, and where in them each sample lies.

`manifest.parquet` has a row a shard: URI (relative to the manifest's folder where it lies below it), bytes, digest,
samples, caption member, and the shard's index as lists. The index of a shard is read when it is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom import storage
from cliploom.data.shards import SPANS, Shard, ShardIndex, index_shard
from cliploom.errors import InputError, refused

NAME = "manifest.parquet"
VERSION = 1
_VERSION_KEY = b"cliploom.manifest"
_GROUP_SAMPLES = 10_000  # shards are put into one row group up to so many samples
_SHARD = {"uri": pa.string(), "bytes": pa.int64(), "digest": pa.string(), "samples": pa.int64()}
_SCHEMA = pa.schema(
    [*_SHARD.items(), ("caption_member", pa.string()), ("keys", pa.list_(pa.string()))]
    + [(name, pa.list_(pa.int64())) for name in SPANS],
    metadata={_VERSION_KEY: str(VERSION)},
)
_log = logging.getLogger(__name__)
_ADVICE = "make it again with jobs/index.py"


@dataclass(frozen=True)
class Manifest:
    """The shards of a data set, in order, with absolute URIs. Made by `load`."""

    uri: str
    shards: list[Shard]
    fingerprint: str  # of the shards' relative names, digests and sizes, in their order
    _rows: list[tuple[int, int]] = field(repr=False)  # row group of each shard, and row in it
    _source: str | bytes = field(repr=False)  # the parquet's URI, or its bytes
    denied: Mapping[int, list[int]] = field(default_factory=dict)  # by shard: samples that are left out (data.deny)

    @property
    def samples(self) -> int:
        """How many samples the shards have in all."""
        return sum(shard.samples for shard in self.shards)

    def index(self, number: int) -> ShardIndex:
        """The index of the shard `number`."""
        group, row = self._rows[number]
        return _read_group(self._source, self.fingerprint, group)[row]

    def keys(self) -> Iterator[list[str]]:
        """The keys of each shard's samples, shard by shard, without the rest of the index."""
        with _open(self._source) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=["keys"])["keys"].to_pylist()

    def check(self) -> None:
        """Find out whether all shards are there, in the size that the manifest states.

        Raises:
            InputError: one is not; names it.
        """
        sizes = _sizes([shard.uri for shard in self.shards])
        for shard in self.shards:
            size = sizes.get(shard.uri)
            if size is None:
                raise InputError(f"{self.uri} names the shard {shard.uri}, which is gone: restore it, or {_ADVICE}")
            if size != shard.bytes:
                raise InputError(f"shard {shard.uri} has {size} bytes, {self.uri} says {shard.bytes}: {_ADVICE}")


def load(uri: str) -> Manifest:
    """The manifest at `uri`: a manifest.parquet, its folder, or shards' tars themselves (`.../{00000..00099}.tar`).

    Tars are indexed on the fly by their headers, which takes its time: jobs/index.py does that once and for all.

    Raises:
        InputError: there is none, or it is of a format that is not known here.
        TransportError: it can't be read now.
    """
    try:
        with refused("the manifest can't be read"):
            if uri.endswith(".tar"):
                return _of_shards(storage.absolute(uri))
            place = storage.absolute(uri if uri.endswith(".parquet") else storage.join(uri, NAME))
            storage.size(place)  # answers in words where pyarrow has an error code
            return _parse(place, place)
    except FileNotFoundError:
        raise InputError(f"there is no manifest at {uri}: make one with jobs/prepare.py or jobs/index.py") from None


def write(uri: str, rows: Iterable[tuple[Shard, ShardIndex]]) -> Manifest:
    """Write a manifest to `uri`, whole or not at all, and return it."""
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        _encode(file, storage.parent(uri), rows)
        file.flush()
        storage.upload(Path(file.name), uri)
    return load(uri)


def _of_shards(pattern: str) -> Manifest:
    rows: list[tuple[Shard, ShardIndex]] = []
    causes: Counter[str] = Counter()
    for shard, index, faults in map(index_shard, storage.expand(pattern)):
        causes.update(fault.cause for fault in faults)
        if shard.samples:
            rows.append((shard, index))
    if not rows:
        raise InputError(f"the shards {pattern} hold no image with a caption")
    if causes:
        left_out = ", ".join(f"{count} x {cause}" for cause, count in causes.most_common())
        _log.warning("left out of %s: %s", pattern, left_out)
    sink = pa.BufferOutputStream()
    _encode(sink, storage.parent(pattern), rows)
    return _parse(pattern, sink.getvalue().to_pybytes())


def _encode(file: Any, folder: str, rows: Iterable[tuple[Shard, ShardIndex]]) -> None:
    with pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist([_row(folder, *row) for row in group], schema=_SCHEMA))


def _row(folder: str, shard: Shard, index: ShardIndex) -> dict[str, Any]:
    return {
        "uri": relative(folder, shard.uri),
        "bytes": shard.bytes,
        "digest": shard.digest,
        "samples": shard.samples,
        "caption_member": shard.caption_member,
        "keys": index.keys,
        **{name: getattr(index, name) for name in SPANS},
    }


def _groups(rows: Iterable[tuple[Shard, ShardIndex]]) -> Iterator[list[tuple[Shard, ShardIndex]]]:
    group: list[tuple[Shard, ShardIndex]] = []
    for row in rows:
        if group and sum(shard.samples for shard, _ in group) + row[0].samples > _GROUP_SAMPLES:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def relative(folder: str, uri: str) -> str:
    """`uri` from the folder on, where it lies below it; otherwise as it is."""
    return storage.absolute(uri).removeprefix(storage.absolute(folder).rstrip("/") + "/")


def _parse(uri: str, source: str | bytes) -> Manifest:
    try:
        file = _open(source)
        version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"").decode()
        if version != str(VERSION):
            known = f"has format {version}, but this cliploom reads {VERSION}" if version else "is no manifest"
            raise InputError(f"{uri} {known}: {_ADVICE}")
        table = file.read([*_SHARD, "caption_member"])
    except pa.ArrowException as error:
        raise InputError(f"{uri} is no manifest ({' '.join(str(error).split())}): {_ADVICE}") from None
    folder = storage.parent(uri)
    found = table.to_pylist()
    digest = hashlib.sha256()
    for row in found:
        digest.update(f"{row['uri']}\t{row['digest']}\t{row['samples']}\n".encode())
    shards = [Shard(**{**row, "uri": _absolute(folder, row["uri"])}) for row in found]
    counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    rows = [(group, row) for group, count in enumerate(counts) for row in range(count)]
    return Manifest(uri, shards, digest.hexdigest(), rows, source)


def _absolute(folder: str, uri: str) -> str:
    return uri if storage.is_s3(uri) or uri.startswith("/") else storage.join(folder, uri)


def _open(source: str | bytes) -> pq.ParquetFile:
    if isinstance(source, bytes):
        return pq.ParquetFile(pa.BufferReader(source))
    system, path = storage.filesystem(source)
    return pq.ParquetFile(path, filesystem=system)


@functools.lru_cache(maxsize=64)
def _read_group(source: str | bytes, fingerprint: str, number: int) -> list[ShardIndex]:
    """The indexes of the shards of a row group; `fingerprint` tells a manifest from an older one at the same URI."""
    with _open(source) as file:
        columns = file.read_row_group(number, columns=["keys", *SPANS]).to_pydict()
    spans = [[np.array(values, dtype=np.int64) for values in columns[name]] for name in SPANS]
    return [ShardIndex(*row) for row in zip(columns["keys"], *spans, strict=True)]


def _sizes(uris: list[str]) -> dict[str, int]:
    """Bytes of those of `uris` that are there; on S3 by one listing a folder, not one request a shard."""
    remote = sorted({storage.parent(uri) for uri in uris if storage.is_s3(uri)})
    sizes = {file.uri: file.size for folder in remote for file in storage.files(folder)}
    here = (uri for uri in uris if not storage.is_s3(uri) and storage.exists(uri))
    return sizes | {uri: storage.size(uri) for uri in here}
