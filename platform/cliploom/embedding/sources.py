"""What is embedded: the shards of a manifest, or image files of a folder in lots; and the pictures of both again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cliploom import storage
from cliploom.data import manifest, shards
from cliploom.data.faults import BadSample
from cliploom.data.shards import IMAGE_EXTENSIONS
from cliploom.evaluation.features import Files, Pictures

_LOT = 2000  # files a part
Source = Pictures | Files


class Picture(NamedTuple):
    """An encoded image, and its caption where there is one."""

    data: bytes
    caption: str


def find(uri: str) -> list[Source]:
    """The sources at `uri`: a manifest, its folder, shards' tars, or a folder of image files.

    Raises:
        InputError: there is neither.
    """
    if files := _image_files(uri):
        return [_lot(files[start : start + _LOT]) for start in range(0, len(files), _LOT)]
    return [Pictures(shard.uri, shard.digest) for shard in manifest.load(uri).shards]


def place(source: Source) -> str:
    """The URI of a source, for people: of a lot of files that of the first."""
    return source.uri if isinstance(source, Pictures) else source.uris[0]


def opener(uri: str) -> Callable[[str, str], Picture | None]:
    """A function from (place of the source, key) to the picture that was embedded; None where it is gone."""
    if _image_files(uri):
        return lambda _, key: _file(key)
    known = manifest.load(uri)
    numbers = {shard.uri: number for number, shard in enumerate(known.shards)}

    def open_sample(place: str, key: str) -> Picture | None:
        if place not in numbers:
            return None
        shard, index = known.shards[numbers[place]], known.index(numbers[place])
        if key not in index.keys:
            return None
        row = index.keys.index(key)
        image = storage.read(shard.uri, int(index.image_offset[row]), int(index.image_size[row]))
        member = storage.read(shard.uri, int(index.caption_offset[row]), int(index.caption_size[row]))
        try:
            captions = shards.captions(shard, member)
        except BadSample:
            captions = []
        return Picture(image, captions[0] if captions else "")

    return open_sample


def _image_files(uri: str) -> list[storage.File]:
    """The image files below a folder; none where it has a manifest, or is none."""
    if uri.endswith((".parquet", ".tar")) or storage.exists(storage.join(uri, manifest.NAME)):
        return []
    found = storage.files(storage.absolute(uri))
    return [file for file in found if storage.name(file.uri).rpartition(".")[2].lower() in IMAGE_EXTENSIONS]


def _lot(files: Sequence[storage.File]) -> Files:
    """Files that are embedded together. The digest is of their URIs and sizes: they are not read twice."""
    listed = "".join(f"{file.uri}\t{file.size}\n" for file in files)
    digest = hashlib.sha256(listed.encode()).hexdigest()
    return Files(tuple(file.uri for file in files), f"files:{digest}")


def _file(uri: str) -> Picture | None:
    try:
        return Picture(storage.read(uri), "")
    except FileNotFoundError:
        return None
