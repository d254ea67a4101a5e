"""Every path is a URI: local folders (`/data/x`, `file:///data/x`) and `s3://bucket/key` alike.

S3's endpoint, region and credentials come from the usual AWS variables and files (`AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, ...). A missing object raises FileNotFoundError on either side; an S3 that can't be reached or that
refuses raises StorageError: a TransportError, after retries for a bounded time (`retrying`), or a
CredentialsError, at once.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from cliploom import s3
from cliploom.aside import PREFIX, Aside
from cliploom.errors import InputError, StorageError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class File(NamedTuple):
    """One file of a listing."""

    uri: str
    size: int  # bytes


def is_s3(uri: str) -> bool:
    """Whether `uri` names an S3 object or folder."""
    return uri.startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """`uri` and `parts` with single slashes between them."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def parent(uri: str) -> str:
    """The folder that holds `uri`."""
    head, slash, _ = uri.rstrip("/").rpartition("/")
    return head or slash or "."


def name(uri: str) -> str:
    """The last part of `uri`."""
    return uri.rstrip("/").rpartition("/")[2]


def absolute(uri: str) -> str:
    """`uri` so that it means the same in any working directory: an S3 URI as it is, a local path made absolute."""
    return uri.rstrip("/") if is_s3(uri) else str(local(uri).absolute())


def local(uri: str) -> Path:
    """The local path that `uri` names."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    if "://" in uri:
        raise InputError(f"{uri}: only local paths and s3:// are known")
    return Path(uri)


def read(uri: str, start: int = 0, length: int | None = None) -> bytes:
    """The bytes of a file, or `length` of them from `start`; fewer where it ends before."""
    if is_s3(uri):
        return s3.read(uri, start, length)
    with local(uri).open("rb") as file:
        file.seek(start)
        return file.read(-1 if length is None else length)


def opened(uri: str, bytes_: int | None = None) -> IO[bytes]:
    """The file, open for reading from any place; `bytes_` is its size where that is known already."""
    if is_s3(uri):
        return s3.opened(uri, s3.size(uri) if bytes_ is None else bytes_)
    return local(uri).open("rb")


def write(uri: str, data: bytes | Sequence[memoryview]) -> None:
    """Write a file whole or not at all, over what was there; of several pieces one after the other, uncopied."""
    pieces = [memoryview(data)] if isinstance(data, bytes) else data
    if is_s3(uri):
        s3.write(uri, pieces)
        return
    with Aside(local(uri)) as aside:
        aside.write(pieces)
        aside.commit()


def create(uri: str, data: bytes) -> bool:
    """Write a file only where there is none; of several writers at once, one gets True."""
    if is_s3(uri):
        return s3.create(uri, data)
    with Aside(local(uri)) as aside:
        aside.write([memoryview(data)])
        return aside.commit(new=True)


def upload(path: Path, uri: str) -> None:
    """Copy the local file `path` to `uri`, whole or not at all."""
    if is_s3(uri):
        s3.upload(path, uri)
        return
    with Aside(local(uri)) as aside:
        shutil.copyfile(path, aside.path)
        aside.commit()


def download(uri: str, path: Path) -> None:
    """Copy `uri` to the local file `path`, whole or not at all."""
    with Aside(path) as aside:
        if is_s3(uri):
            s3.download(uri, aside.path)
        else:
            shutil.copyfile(local(uri), aside.path)
        aside.commit()


def exists(uri: str) -> bool:
    """Whether there is a file at `uri`."""
    try:
        size(uri)
    except FileNotFoundError:
        return False
    return True


def size(uri: str) -> int:
    """Bytes of the file at `uri`."""
    if is_s3(uri):
        return s3.size(uri)
    if not local(uri).is_file():
        raise FileNotFoundError(uri)
    return local(uri).stat().st_size


def files(uri: str) -> list[File]:
    """All files below the folder `uri`, by URI; an empty list where there is no such folder."""
    if is_s3(uri):
        return [File(*found) for found in s3.files(uri)]
    found = (path for path in local(uri).rglob("*") if path.is_file() and not path.name.startswith(PREFIX))
    return sorted(File(str(path), path.stat().st_size) for path in found)


def delete(uri: str) -> None:
    """Remove a file, or a folder with all that is below it; nothing where there is none."""
    if is_s3(uri):
        s3.delete([file.uri for file in files(uri)] + [uri])
    elif local(uri).is_dir():
        shutil.rmtree(local(uri))
    else:
        local(uri).unlink(missing_ok=True)


def expand(pattern: str) -> list[str]:
    """The URIs that a pattern with number ranges names, in order: `s3://b/{00000..01023}.tar`."""
    pieces = _RANGE.split(pattern)
    ranges = list(zip(pieces[1::3], pieces[2::3], strict=True))
    if backwards := [f"{{{first}..{last}}}" for first, last in ranges if int(first) > int(last)]:
        raise InputError(f"{pattern}: the range {backwards[0]} is empty: write the smaller number first")
    numbers = [[f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)] for first, last in ranges]
    texts = pieces[0::3]
    return [
        "".join(itertools.chain(*zip(texts, choice, strict=False), texts[-1:]))
        for choice in itertools.product(*numbers)
    ]


def filesystem(uri: str) -> tuple[Any, str]:
    """pyarrow's file system for `uri`, and the path of `uri` in it."""
    from pyarrow import fs

    if not is_s3(uri):
        return fs.LocalFileSystem(), str(local(uri))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=8)
    system = fs.S3FileSystem(endpoint_override=endpoint, connect_timeout=10, request_timeout=60, retry_strategy=retries)
    return system, uri.removeprefix("s3://")


def check(uri: str, key: str) -> None:
    """Find out, within seconds, that the folder `uri` can be written to.

    Raises:
        InputError: it can't; names the setting `key` that gave the URI.
    """
    probe = join(uri, ".cliploom-probe")
    try:
        if is_s3(uri):
            s3.probe(probe)
        else:
            write(probe, b"")
            delete(probe)
    except OSError as error:
        known = isinstance(error, StorageError)
        reason = str(error).removeprefix(f"{probe}: ") if known else error.strerror or str(error)
        raise InputError(f"{key}: {uri} can't be written to: {reason}") from None
