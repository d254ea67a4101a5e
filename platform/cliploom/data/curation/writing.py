"""New shards of the pairs that stay: one of each old shard of which a pair is left, with its keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cliploom.data import cache, packing, shards, tars
from cliploom.data.shards import IMAGE_EXTENSIONS, Shard, ShardIndex, ShardWriter

_FORMAT = 1  # of the shards' content; another number makes all shards anew
_AT_ONCE = 256  # pairs in memory


@dataclass(frozen=True)
class Selection:
    """The pairs of a shard that stay, at least one."""

    shard: Shard
    index: ShardIndex
    kept: NDArray[np.int64]  # their numbers in the shard, ascending
    uri: str  # of the new shard
    record: str  # URI of the record that it is made
    listing: str  # URI of the manifest

    def fingerprint(self) -> str:
        """Of all that the new shard's bytes depend on."""
        content = hashlib.sha256(json.dumps([_FORMAT, self.shard.digest, self.shard.bytes]).encode())
        content.update(self.kept.astype("<i8").tobytes())
        return content.hexdigest()


def write(item: Selection) -> int:
    """Make the shard, and then its record, unless it is made already; returns its number of pairs."""
    if not packing.finished(item.uri, item.record, item.fingerprint()):
        packing.withdraw(item.listing, item.record)
        with ShardWriter(item.uri, several=item.shard.caption_member == "json") as writer:
            for key, image, extension, captions, metadata in _pairs(item):
                writer.add(key, image, extension, captions, metadata)
        record = packing.Record(
            item.fingerprint(), writer.shard.bytes, len(item.kept), [], (writer.shard, writer.index)
        )
        packing.write_record(item.record, record)
    return len(item.kept)


def _pairs(item: Selection) -> Iterator[tuple[str, bytes, str, list[str], dict[str, Any]]]:
    beside = _beside(item)
    for start in range(0, len(item.kept), _AT_ONCE):
        numbers = item.kept[start : start + _AT_ONCE].tolist()
        for number, (image, member) in zip(numbers, shards.read_samples(item.shard, item.index, numbers), strict=True):
            key = item.index.keys[number]
            extension, metadata = beside[key]
            yield key, image, extension, shards.captions(item.shard, member), metadata


def _beside(item: Selection) -> dict[str, tuple[str, dict[str, Any]]]:
    """What the index doesn't tell of the kept pairs, by key: the image's extension, and KEY.json beside KEY.txt."""
    keys = {item.index.keys[number] for number in item.kept.tolist()}
    extensions: dict[str, str] = {}
    metadata: dict[str, tars.Span] = {}
    with cache.opened(item.shard.uri, item.shard.bytes, item.shard.digest) as file:
        for header, span in tars.walk(item.shard.uri, file, item.shard.bytes, []):
            key, _, extension = header.name.rpartition(".")
            if key in keys and extension.lower() in IMAGE_EXTENSIONS:
                extensions.setdefault(key, extension.lower())
            elif key in keys and extension.lower() == "json":
                metadata.setdefault(key, span)
        return {key: (extensions[key], _metadata(file, metadata.get(key))) for key in keys}


def _metadata(file: IO[bytes], span: tars.Span | None) -> dict[str, Any]:
    """What a KEY.json says; nothing where it is broken, since no more is known of the pair then."""
    if span is None:
        return {}
    file.seek(span.offset)
    try:
        known = json.loads(file.read(span.size))
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}
