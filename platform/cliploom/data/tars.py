"""Tars: written so that their bytes depend on their members alone, and read by their headers."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from cliploom import storage

_BLOCK = 512  # bytes; tar's unit


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


class Headers:
    """A digest of a tar's size and headers, which tells a changed one without its bodies."""

    def __init__(self, size: int) -> None:
        self._digest = hashlib.sha256(str(size).encode())

    def add(self, header: tarfile.TarInfo, span: Span) -> None:
        """Take in the next file's header."""
        words = f"\n{header.name}\t{header.chksum}\t{span.offset}\t{span.size}"
        self._digest.update(words.encode("utf-8", "surrogateescape"))

    def digest(self) -> str:
        """With its kind."""
        return f"headers:{self._digest.hexdigest()}"


def digest(file: IO[bytes], size: int, kind: str) -> str:
    """The digest of an open tar of `size` bytes: `sha256` of all bytes, or `headers` of size and headers."""
    file.seek(0)
    if kind == "sha256":
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"  # type: ignore[arg-type]
    headers = Headers(size)
    for header, span in walk("", file, size, []):
        headers.add(header, span)
    return headers.digest()
