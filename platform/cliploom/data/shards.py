"""Shards: WebDataset tars of image-text pairs as img2dataset writes them, and where each sample lies in them.

A sample is `KEY.jpg|jpeg|png|webp` with `KEY.txt` (one caption) and, where there is more to say, `KEY.json`. An image
with several captions has them in `KEY.json` as `{"captions": [...]}`; `KEY.txt` is then the first of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np

from cliploom import storage
from cliploom.data import cache, tars
from cliploom.data.faults import BadSample, is_text
from cliploom.data.tars import Fault, Headers, Span, TarWriter, walk
from cliploom.errors import InputError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
SPANS = ("image_offset", "image_size", "caption_offset", "caption_size")  # the arrays of a ShardIndex
_NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$")  # as WebDataset: the key ends at the base name's first dot

CaptionMember = Literal["txt", "json"]


@dataclass(frozen=True)
class Shard:
    """One tar of samples. `digest` says its kind: `sha256:` of all bytes, `headers:` of size and tar headers."""

    uri: str
    bytes: int
    digest: str
    samples: int
    caption_member: CaptionMember


@dataclass(frozen=True)
class ShardIndex:
    """Where a shard's samples lie: keys, and offsets and sizes in bytes as int64 [samples]."""

    keys: list[str]
    image_offset: np.ndarray
    image_size: np.ndarray
    caption_offset: np.ndarray
    caption_size: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


class ShardWriter:
    """Writes one shard of image-text pairs, committed whole at the end of the block; then `shard` and `index` are set.

    Args:
        uri: of the tar.
        several: whether images have more than one caption, so that training reads `KEY.json`.
    """

    shard: Shard
    index: ShardIndex

    def __init__(self, uri: str, several: bool = False) -> None:
        self._tar = TarWriter(uri)
        self._member: CaptionMember = "json" if several else "txt"
        self._keys: list[str] = []
        self._spans: list[tuple[Span, Span]] = []

    def __enter__(self) -> ShardWriter:
        self._tar.__enter__()
        return self

    def add(
        self, key: str, image: bytes, extension: str, captions: Sequence[str], metadata: dict[str, Any] | None = None
    ) -> None:
        """Append a sample: encoded `image` of one of IMAGE_EXTENSIONS, its captions, and what else is known of it.

        What UTF-8 can't encode of the latter becomes question marks.
        """
        if len(captions) != 1 and self._member == "txt":
            raise ValueError(f"{key} has {len(captions)} captions, the shard is declared to have one for each image")
        known = dict(metadata or {})
        if self._member == "json":
            known["captions"] = list(captions)
        spans = {
            "image": self._tar.add(f"{key}.{extension}", image),
            "txt": self._tar.add(f"{key}.txt", captions[0].encode()),
        }
        if known:
            data = json.dumps(known, ensure_ascii=False).encode("utf-8", "replace")
            spans["json"] = self._tar.add(f"{key}.json", data)
        self._keys.append(key)
        self._spans.append((spans["image"], spans[self._member]))

    def __exit__(self, kind: object, *rest: object) -> None:
        self._tar.__exit__(kind, *rest)
        if kind is None:
            self.index = _index(self._keys, self._spans)
            tar = self._tar
            self.shard = Shard(tar.uri, tar.bytes, tar.digest, len(self._keys), self._member)


def index_shard(uri: str, content_digest: bool = False) -> tuple[Shard, ShardIndex, list[Fault]]:
    """Find the samples of a tar that exists, by its headers.

    Args:
        uri: of the tar.
        content_digest: digest all bytes, which reads them, instead of the headers.

    Returns:
        The shard, its index, and what is no sample: an image without caption or the reverse, a second member of the
        same kind, a key that is not UTF-8, the end of a truncated tar. Members of other kinds are passed over.

    Raises:
        InputError: there is no such file.
    """
    try:
        size = storage.size(uri)
        with storage.opened(uri, size) as file:
            members, faults, digest = _members(uri, file, size)
            member = _caption_member(file, members)
            if content_digest:
                digest = tars.digest(file, size, "sha256")
    except FileNotFoundError:
        raise InputError(f"there is no shard {uri}") from None
    keys: list[str] = []
    spans: list[tuple[Span, Span]] = []
    for key, parts in members.items():
        if not is_text(key):
            faults.append(Fault(f"{uri}#{key}", "key is not UTF-8 text"))
        elif "image" in parts and member in parts:
            keys.append(key)
            spans.append((parts["image"], parts[member]))
        elif "image" in parts:
            faults.append(Fault(f"{uri}#{key}", "image without caption"))
        elif member in parts:
            faults.append(Fault(f"{uri}#{key}", "caption without image"))
    return Shard(uri, size, digest, len(keys), member), _index(keys, spans), faults


def read_samples(shard: Shard, index: ShardIndex, numbers: Sequence[int]) -> list[tuple[bytes, bytes]]:
    """The samples at `numbers` of the index, each as (encoded image, bytes of the caption member).

    Raises:
        InputError: the shard is gone, or shorter than its index says.
    """
    with cache.opened(shard.uri, shard.bytes, shard.digest) as file:
        handle = file.fileno()
        return [
            (
                _pread(shard, handle, int(index.image_size[i]), int(index.image_offset[i])),
                _pread(shard, handle, int(index.caption_size[i]), int(index.caption_offset[i])),
            )
            for i in numbers
        ]


def read_captions(shard: Shard, index: ShardIndex) -> Iterator[bytes]:
    """The caption member of each sample of the index, in order, without the images where storage can pass them over.

    Raises:
        InputError: the shard is gone, or shorter than its index says.
    """
    try:
        with storage.opened(shard.uri, shard.bytes) as file:
            for offset, size in zip(index.caption_offset.tolist(), index.caption_size.tolist(), strict=True):
                file.seek(offset)
                yield _whole(shard, file.read(size), size)
    except FileNotFoundError:
        raise InputError(f"there is no shard {shard.uri}: restore it, or run jobs/index.py again") from None


def captions(shard: Shard, member: bytes) -> list[str]:
    """The captions that a caption member's bytes hold.

    Raises:
        BadSample: the bytes are no UTF-8 or no JSON with captions.
    """
    try:
        text = member.decode("utf-8")
        known = {"captions": [text]} if shard.caption_member == "txt" else json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise BadSample("caption is not UTF-8 text") from None
    found = known.get("captions") if isinstance(known, dict) else None
    if not isinstance(found, list) or not all(isinstance(caption, str) for caption in found):
        raise BadSample("no captions")
    return found


def _pread(shard: Shard, handle: int, size: int, offset: int) -> bytes:
    return _whole(shard, os.pread(handle, size, offset), size)


def _whole(shard: Shard, data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise InputError(f"shard {shard.uri} is shorter than its manifest says: run jobs/index.py again")
    return data


def _index(keys: list[str], spans: list[tuple[Span, Span]]) -> ShardIndex:
    numbers = np.array(spans, dtype=np.int64).reshape(-1, 4)
    return ShardIndex(keys, *numbers.T.copy())


def _members(uri: str, file: IO[bytes], size: int) -> tuple[dict[str, dict[str, Span]], list[Fault], str]:
    """The members of each key by kind (image, txt, json), faults, and a digest of size and headers."""
    found: dict[str, dict[str, Span]] = {}
    faults: list[Fault] = []
    headers = Headers(size)
    for header, span in walk(uri, file, size, faults):
        headers.add(header, span)
        match = _NAME.match(header.name)
        if not match:
            continue
        key, extension = match[1], match[2].lower()
        kind = "image" if extension in IMAGE_EXTENSIONS else extension
        if kind not in ("image", "txt", "json"):
            continue
        parts = found.setdefault(key, {})
        if kind in parts:
            faults.append(Fault(f"{uri}#{key}", f"second {kind} of a key"))
        else:
            parts[kind] = span
    return found, faults, headers.digest()


def _caption_member(file: IO[bytes], members: dict[str, dict[str, Span]]) -> CaptionMember:
    """json, where the first whole sample's KEY.json has several captions' list; txt otherwise."""
    first = next((parts for parts in members.values() if "image" in parts and "json" in parts), None)
    if first is None:
        return "txt"
    file.seek(first["json"].offset)
    try:
        known = json.loads(file.read(first["json"].size))
    except ValueError:
        return "txt"
    return "json" if isinstance(known, dict) and isinstance(known.get("captions"), list) else "txt"
