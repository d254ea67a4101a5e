"""One shard of raw rows: read, check, resize and write it, and keep a record that it is made."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from cliploom import storage
from cliploom.data.faults import BadSample, is_text
from cliploom.data.shards import SPANS, Shard, ShardIndex, ShardWriter
from cliploom.data.sources import Row
from cliploom.data.tables import Embedded, embedded
from cliploom.data.tars import Fault, TarWriter
from cliploom.data.transforms import decode_image
from cliploom.settings.data import Prepare

_FORMAT = 3  # of the shards' content; another number makes all shards anew
_SIGNATURES = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}


@dataclass(frozen=True)
class Plan:
    """One shard to be made."""

    uri: str
    record: str  # URI of the record that it is made
    listing: str  # URI of the file that says which shards there are
    rows: tuple[Row, ...]
    settings: Prepare
    classes: dict[str, int] = field(default_factory=dict)  # number of each class by its name

    def fingerprint(self) -> str:
        """Of all that the shard's bytes depend on; of files, the name and what `Row.version` has."""
        made_by = (_FORMAT, self.settings.layout, self.settings.resize, self.settings.quality, self.classes)
        content = json.dumps([made_by, [asdict(row) for row in self.rows]])
        return hashlib.sha256(content.encode()).hexdigest()


class Record(NamedTuple):
    """What is kept of a shard that is made."""

    fingerprint: str  # of its plan
    bytes: int
    samples: int
    faults: list[Fault]
    entry: tuple[Shard, ShardIndex] | None  # for the manifest; evaluation sets have none
    sizes: Sequence[int | None] = ()  # bytes of each row's image as it was read; None where there was no file


class _Sample(NamedTuple):
    row: Row
    image: bytes
    extension: str
    texts: list[str]  # captions, or the class number


class Made(NamedTuple):
    """What has become of a plan."""

    samples: int
    faults: list[Fault]


def make(plan: Plan) -> Made:
    """Make the planned shard, and then its record, unless it is made already, of the same rows by the same settings."""
    record = finished(plan.uri, plan.record, plan.fingerprint())
    if record is None or not _images_are_same(plan, record):
        record = _make(plan)
    return Made(record.samples, record.faults)


def finished(uri: str, record: str, fingerprint: str) -> Record | None:
    """The record at the URI `record`, if it is of this fingerprint and its shard is there."""
    try:
        found = read_record(record)
        same = found.fingerprint == fingerprint and storage.size(uri) == found.bytes
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # not there, or of another version's form
        return None
    return found if same else None


def withdraw(listing: str, record: str) -> None:
    """Delete what says that all shards are made, and that this one is: to be done before it is written over.

    Whoever trains by the old listing would read the new bytes at the old places, and a size seldom tells: tars are
    padded.
    """
    storage.delete(listing)
    storage.delete(record)


def _images_are_same(plan: Plan, record: Record) -> bool:
    """Whether the images that a table names have the sizes that they were read with.

    On S3, where each takes a request, only those that could not be used are looked at: they may have been mended.
    """
    bad = {fault.source for fault in record.faults}
    named = (
        (row.source, str(row.image), size)
        for row, size in zip(plan.rows, record.sizes, strict=True)
        if not (row.version or isinstance(row.image, Embedded))
    )
    return all(_size(uri) == size for source, uri, size in named if source in bad or not storage.is_s3(uri))


def _make(plan: Plan) -> Record:
    faults: list[Fault] = []
    samples: list[_Sample] = []
    sizes: list[int | None] = []
    for row, data in _images(plan.rows):
        sizes.append(None if data is None else len(data))
        try:
            samples.append(_Sample(row, *_image(data, plan.settings), _texts(row, plan)))
        except BadSample as bad:
            faults.append(Fault(row.source, bad.cause))
    withdraw(plan.listing, plan.record)
    entry = None
    if plan.settings.layout == "pairs":
        entry = _write_pairs(plan.uri, samples)
    else:
        _write_evaluation(plan.uri, samples, "cls" if plan.settings.layout == "classification" else "txt")
    entry = entry if samples else None
    record = Record(plan.fingerprint(), storage.size(plan.uri), len(samples), faults, entry, sizes)
    write_record(plan.record, record)
    return record


def write_record(uri: str, record: Record) -> None:
    """Keep a record as JSON."""
    known = record._asdict()
    if record.entry:
        shard, index = record.entry
        spans = {name: getattr(index, name).tolist() for name in SPANS}
        known["entry"] = {"shard": asdict(shard), "index": {"keys": index.keys, **spans}}
    storage.write(uri, json.dumps(known).encode())


def read_record(uri: str) -> Record:
    """The record that `write_record` wrote."""
    known = json.loads(storage.read(uri))
    entry = None
    if known["entry"]:
        spans = {name: np.array(known["entry"]["index"][name], dtype=np.int64) for name in SPANS}
        entry = Shard(**known["entry"]["shard"]), ShardIndex(known["entry"]["index"]["keys"], **spans)
    return Record(**{**known, "faults": [Fault(*fault) for fault in known["faults"]], "entry": entry})


def _write_pairs(uri: str, samples: list[_Sample]) -> tuple[Shard, ShardIndex]:
    with ShardWriter(uri, several=any(len(sample.texts) > 1 for sample in samples)) as writer:
        for row, image, extension, captions in samples:
            writer.add(f"{row.number:09d}", image, extension, captions, row.metadata)
    return writer.shard, writer.index


def _write_evaluation(uri: str, samples: list[_Sample], member: str) -> None:
    with TarWriter(uri) as tar:
        for row, image, extension, lines in samples:
            tar.add(f"{row.number:09d}.{extension}", image)
            tar.add(f"{row.number:09d}.{member}", "\n".join(lines).encode())


def _texts(row: Row, plan: Plan) -> list[str]:
    if plan.settings.layout == "classification":
        return [_class_number(row.label or "", plan.classes)]
    texts = row.captions
    if row.caption_file:
        text = storage.read(row.caption_file).decode("utf-8-sig", "surrogateescape")
        texts = tuple(text.splitlines()) if plan.settings.layout == "retrieval" else (text,)
    if not all(map(is_text, texts)):
        raise BadSample("caption is not UTF-8 text")
    captions = [" ".join(text.split()) for text in texts if text.strip()]
    if not captions:
        raise BadSample("empty caption")
    return captions


def _class_number(label: str, classes: dict[str, int]) -> str:
    if not is_text(label):
        raise BadSample("class is not UTF-8 text")
    if label in classes:
        return str(classes[label])
    if label.isdecimal() and int(label) < len(classes):
        return str(int(label))
    raise BadSample("unknown class", label)


def _images(rows: Sequence[Row]) -> Iterator[tuple[Row, bytes | None]]:
    """Each row with its image as it stands in the source, or None where there is none."""
    for place, group in itertools.groupby(rows, lambda row: row.image[:2] if isinstance(row.image, Embedded) else None):
        of_group = list(group)
        if place is None:
            yield from ((row, _read(str(row.image))) for row in of_group)
        else:
            images = [row.image for row in of_group if isinstance(row.image, Embedded)]
            yield from zip(of_group, embedded(images), strict=True)


def _read(uri: str) -> bytes | None:
    try:
        return storage.read(uri)
    except (FileNotFoundError, IsADirectoryError, ValueError):  # the last: no file can have such a name
        return None


def _size(uri: str) -> int | None:
    try:
        return storage.size(uri)
    except (FileNotFoundError, ValueError):
        return None


def _image(data: bytes | None, settings: Prepare) -> tuple[bytes, str]:
    """An image and its extension: as it is, if training can read it so, else encoded anew."""
    if data is None:
        raise BadSample("no image file")
    image = decode_image(data)
    shorter = min(image.size)
    if settings.resize and shorter > settings.resize:
        width, height = (max(1, round(side * settings.resize / shorter)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return _encode(image, "JPEG", quality=settings.quality), "jpg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return data, "webp"
    for extension, signature in _SIGNATURES.items():
        if data.startswith(signature):
            return data, extension
    return _encode(image, "PNG"), "png"


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
