"""Shards: WebDataset tars of image-text pairs as img2dataset writes them, and where each sample lies in them.

A sample is `KEY.jpg|jpeg|png|webp` with `KEY.txt` (one caption) and, where there is more to say, `KEY.json`. An image
with several captions has them in `KEY.json` as `{"captions": [...]}`; `KEY.txt` is then the first of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from cliploom import storage
from cliploom.data import cache
from cliploom.data.faults import BadSample
from cliploom.errors import InputError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
SPANS = ("image_offset", "image_size", "caption_offset", "caption_size")  # the arrays of a ShardIndex
_NAME = re.compile(r"^((?:.*/)?[^./]+)\.([^/]+)$")  # as WebDataset: the key ends at the base name's first dot
_BLOCK = 512  # bytes; tar's unit
_REMOTE_BUFFER = 4 << 20  # bytes a request; members smaller than this are read over rather than skipped

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


class Fault(NamedTuple):
    """Something of a source that became no sample, and why."""

    source: str  # a row, a file, or SHARD#KEY
    cause: str  # few words, the same for all faults of a kind


class Span(NamedTuple):
    """A member's bytes in a tar."""

    offset: int
    size: int


class TarWriter:
    """Writes a tar whose bytes depend on its members alone; at the end of the block it stands at `uri`, or nowhere."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> TarWriter:
        self._file = tempfile.NamedTemporaryFile(suffix=".tar")
        self._tar = tarfile.open(fileobj=self._file, mode="w")
        return self

    def add(self, name: str, data: bytes) -> Span:
        """Append a member; returns where its bytes stand."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        return Span(self._tar.offset - -(-len(data) // _BLOCK) * _BLOCK, len(data))

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is not None:
                return
            self._tar.close()
            self._file.flush()
            self._file.seek(0)
            self.digest = f"sha256:{hashlib.file_digest(self._file, 'sha256').hexdigest()}"
            self.bytes = self._file.tell()
            storage.upload(Path(self._file.name), self.uri)


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
        """Append a sample: encoded `image` of one of IMAGE_EXTENSIONS, its captions, and what else is known of it."""
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
            spans["json"] = self._tar.add(f"{key}.json", json.dumps(known, ensure_ascii=False).encode())
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
        same kind, the end of a truncated tar. Members of other kinds are passed over.

    Raises:
        InputError: there is no such file.
    """
    try:
        size = storage.size(uri)
        with _opened(uri, size) as file:
            members, faults, headers = _members(uri, file, size)
            member = _caption_member(file, members)
            digest = f"headers:{headers}"
            if content_digest:
                file.seek(0)
                digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"  # type: ignore[arg-type]
    except FileNotFoundError:
        raise InputError(f"there is no shard {uri}") from None
    keys: list[str] = []
    spans: list[tuple[Span, Span]] = []
    for key, parts in members.items():
        if "image" in parts and member in parts:
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
        with _opened(shard.uri, shard.bytes) as file:
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
    headers = hashlib.sha256(str(size).encode())
    for header, span in walk(uri, file, size, faults):
        headers.update(
            f"\n{header.name}\t{header.chksum}\t{span.offset}\t{span.size}".encode("utf-8", "surrogateescape")
        )
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
    return found, faults, headers.hexdigest()


def walk(uri: str, file: IO[bytes], size: int, faults: list[Fault]) -> Iterator[tuple[tarfile.TarInfo, Span]]:
    """Each whole file of a tar of `size` bytes and its place; a tar that stops before its end mark goes to `faults`."""
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all
                end = tar.offset
                if member.isfile() and member.offset_data + member.size <= size:
                    yield member, Span(member.offset_data, member.size)
    except tarfile.ReadError:
        pass
    file.seek(min(end, size))
    if file.read(_BLOCK) != bytes(_BLOCK):
        faults.append(Fault(uri, "truncated or damaged tar"))


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


def _opened(uri: str, size: int) -> IO[bytes]:
    if storage.is_s3(uri):
        return io.BufferedReader(_Remote(uri, size), _REMOTE_BUFFER)
    return storage.local(uri).open("rb")


class _Remote(io.RawIOBase):
    """A remote file, read by ranges."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._at = uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        buffer[:length] = storage.read(self._uri, self._at, length)
        self._at += length
        return length
