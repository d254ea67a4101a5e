"""Every path is a URI: local folders (`/data/x`, `file:///data/x`) and `s3://bucket/key` alike.

S3's endpoint, region and credentials come from the usual AWS variables and files (`AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, ...). A missing object raises FileNotFoundError on either side; an S3 that can't be reached or that
refuses raises StorageError: a TransportError, after retries for a bounded time (`retrying`), or a
CredentialsError, at once.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from cliploom.aside import PREFIX, Aside
from cliploom.errors import InputError
from cliploom.retrying import retried

_MISSING = {"404", "NoSuchKey", "NotFound"}
_PAST_END = {"416", "InvalidRange"}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_BUSY = {"429", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_EXPIRED = "the credentials have expired: renew them, and run the job again to go on"
_CREDENTIALS = {
    "400": "it is refused without a reason, as happens when the credentials have expired: renew them",  # of HEAD
    "403": "the credentials are refused",
    "AccessDenied": "the credentials have no right to it",
    "InvalidAccessKeyId": "the access key is unknown there",
    "SignatureDoesNotMatch": "the secret key is refused",
    "RequestTimeTooSkewed": "the credentials are refused, since this machine's clock is wrong: set it",
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), _EXPIRED),
}
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_DELETE_AT_ONCE = 1000  # S3's limit
_REMOTE_BLOCK = 4 << 20  # bytes a request of reading; what is smaller is read over rather than skipped
_PATIENCE = (10, 60, 3)  # seconds to connect, seconds to wait for bytes, attempts, all over again in `_s3`
_HASTE = (4, 8, 2)  # the same for `check`, 24 s in all
T = TypeVar("T")


class StorageError(OSError):
    """Storage can't be reached, or refuses."""


class TransportError(StorageError):
    """A fault on the way to storage, or storage too busy, for all the time that was spent on trying again."""


class CredentialsError(StorageError, InputError):
    """Storage refuses the credentials: the user's to mend, so nothing is tried again."""


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
        return _s3(uri, lambda client, bucket, key: _get(client, bucket, key, start, length))
    with local(uri).open("rb") as file:
        file.seek(start)
        return file.read(-1 if length is None else length)


def opened(uri: str, bytes_: int | None = None) -> IO[bytes]:
    """The file, open for reading from any place; `bytes_` is its size where that is known already."""
    if is_s3(uri):
        return io.BufferedReader(_Remote(uri, size(uri) if bytes_ is None else bytes_))
    return local(uri).open("rb")


def write(uri: str, data: bytes | Sequence[memoryview]) -> None:
    """Write a file whole or not at all, over what was there; of several pieces one after the other, uncopied."""
    pieces = [memoryview(data)] if isinstance(data, bytes) else data
    if is_s3(uri):
        _s3(uri, lambda client, bucket, key: _put(client, bucket, key, pieces))
        return
    with Aside(local(uri)) as aside:
        aside.write(pieces)
        aside.commit()


def create(uri: str, data: bytes) -> bool:
    """Write a file only where there is none; of several writers at once, one gets True."""
    if is_s3(uri):
        return _s3(uri, lambda client, bucket, key: _put_new(client, bucket, key, data))
    with Aside(local(uri)) as aside:
        aside.write([memoryview(data)])
        return aside.commit(new=True)


def upload(path: Path, uri: str) -> None:
    """Copy the local file `path` to `uri`, whole or not at all."""
    if is_s3(uri):
        _s3(uri, lambda client, bucket, key: client.upload_file(str(path), bucket, key))
        return
    with Aside(local(uri)) as aside:
        shutil.copyfile(path, aside.path)
        aside.commit()


def download(uri: str, path: Path) -> None:
    """Copy `uri` to the local file `path`, whole or not at all."""
    with Aside(path) as aside:
        if is_s3(uri):
            _s3(uri, lambda client, bucket, key: _fetch(client, bucket, key, aside.path))
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
        return int(_s3(uri, lambda client, bucket, key: client.head_object(Bucket=bucket, Key=key)["ContentLength"]))
    if not local(uri).is_file():
        raise FileNotFoundError(uri)
    return local(uri).stat().st_size


def files(uri: str) -> list[File]:
    """All files below the folder `uri`, by URI; an empty list where there is no such folder."""
    if is_s3(uri):
        prefix = uri.rstrip("/") + "/"
        return _s3(prefix, lambda client, bucket, key: sorted(_list(client, bucket, key)))
    found = (path for path in local(uri).rglob("*") if path.is_file() and not path.name.startswith(PREFIX))
    return sorted(File(str(path), path.stat().st_size) for path in found)


def delete(uri: str) -> None:
    """Remove a file, or a folder with all that is below it; nothing where there is none."""
    if not is_s3(uri):
        path = local(uri)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    keys = [_split(file.uri)[1] for file in files(uri)] + [_split(uri)[1]]
    _s3(uri, lambda client, bucket, _: _delete_keys(client, bucket, keys))


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
            bucket, path = _split(probe)
            client = _client(*_HASTE)
            _translate(uri, lambda: client.put_object(Bucket=bucket, Key=path, Body=b""))
            _translate(uri, lambda: client.delete_object(Bucket=bucket, Key=path))
        else:
            write(probe, b"")
            delete(probe)
    except OSError as error:
        reason = (
            str(error).removeprefix(f"{uri}: ") if isinstance(error, StorageError) else error.strerror or str(error)
        )
        raise InputError(f"{key}: {uri} can't be written to: {reason}") from None


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _get(client: Any, bucket: str, key: str, start: int, length: int | None) -> bytes:
    from botocore.exceptions import ClientError

    end = "" if length is None else start + max(length, 1) - 1  # no range has the length 0
    span = {} if start == 0 and length is None else {"Range": f"bytes={start}-{end}"}
    try:
        body: bytes = client.get_object(Bucket=bucket, Key=key, **span)["Body"].read()
    except ClientError as error:
        if _code(error) in _PAST_END:
            return b""
        raise
    return body[:length]


def _fetch(client: Any, bucket: str, key: str, path: Path) -> None:
    with path.open("wb") as file:  # boto3's download_file would put another file, without a lock, in its place
        client.download_fileobj(bucket, key, file)


class _Remote(io.RawIOBase):
    """A remote file, read in blocks, one request each."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._at = uri, size, 0
        self._block, self._block_at = b"", 0

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
        if self._at >= self._size:
            return 0
        if not self._block_at <= self._at < self._block_at + len(self._block):
            self._block = read(self._uri, self._at, min(_REMOTE_BLOCK, self._size - self._at))
            self._block_at = self._at
        first = self._at - self._block_at
        data = self._block[first : first + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _put(client: Any, bucket: str, key: str, pieces: Sequence[memoryview]) -> None:
    if sum(piece.nbytes for piece in pieces) <= _REMOTE_BLOCK:
        client.put_object(Bucket=bucket, Key=key, Body=b"".join(pieces))
    else:  # in several requests, since S3 takes no more than 5 GiB in one
        client.upload_fileobj(io.BufferedReader(_Joined(pieces), _REMOTE_BLOCK), bucket, key)


class _Joined(io.RawIOBase):
    """Pieces of bytes, read one after the other."""

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Part of one piece; nothing at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(self._rest), len(buffer))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _list(client: Any, bucket: str, prefix: str) -> Iterator[File]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", []):
            yield File(f"s3://{bucket}/{found['Key']}", found["Size"])


def _delete_keys(client: Any, bucket: str, keys: list[str]) -> None:
    for start in range(0, len(keys), _DELETE_AT_ONCE):
        batch = {"Objects": [{"Key": key} for key in keys[start : start + _DELETE_AT_ONCE]], "Quiet": True}
        for fault in client.delete_objects(Bucket=bucket, Delete=batch).get("Errors", []):
            raise StorageError(f"s3://{bucket}/{fault.get('Key')} can't be deleted: {fault.get('Message')}")


def _put_new(client: Any, bucket: str, key: str, data: bytes) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if _code(error) in _TAKEN:
            return False
        raise
    return True


@functools.cache
def _client(connect_seconds: int, read_seconds: int, attempts: int) -> Any:
    """An S3 client; made once a process, since making one takes some 100 ms."""
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": attempts}
    config = Config(
        connect_timeout=connect_seconds, read_timeout=read_seconds, retries=retries, max_pool_connections=32
    )
    # A session of its own: boto3's default one is not safe to make in several threads, and keeps old credentials.
    return boto3.Session().client("s3", config=config, region_name=os.environ.get("AWS_REGION") or None)


def _s3(uri: str, call: Callable[[Any, str, str], T]) -> T:
    """`call(client, bucket, key)`, tried again for a bounded time where its fault is one of transport."""
    bucket, key = _split(uri)
    return retried(lambda: _translate(uri, lambda: call(_client(*_PATIENCE), bucket, key)), TransportError)


def _translate(uri: str, call: Callable[[], T]) -> T:
    """`call()`, with botocore's exceptions as FileNotFoundError or a StorageError of one line."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except ClientError as error:
        raise _refusal(uri, error) from None
    except Boto3Error as error:  # of a transfer in several parts
        cause = error.__context__
        raise (_refusal(uri, cause) if isinstance(cause, ClientError) else TransportError(_line(uri, error))) from None
    except BotoCoreError as error:
        raise _failure(error)(_line(uri, error)) from None


def _refusal(uri: str, error: Any) -> OSError:
    """What an answer of S3's that is no success means."""
    code = _code(error)
    if code in _MISSING:
        return FileNotFoundError(uri)
    if code in _CREDENTIALS:
        return CredentialsError(f"{uri}: {_CREDENTIALS[code]}")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or code in _BUSY:
        return TransportError(_line(uri, error))
    return StorageError(f"{uri}: there is no such bucket" if code == "NoSuchBucket" else _line(uri, error))


def _failure(error: Exception) -> type[StorageError]:
    """What kind of fault botocore has met on its side."""
    from botocore import exceptions as e

    if isinstance(error, e.NoCredentialsError | e.PartialCredentialsError | e.CredentialRetrievalError | e.SSOError):
        return CredentialsError
    lost = (e.ConnectionError, e.HTTPClientError, e.IncompleteReadError, e.ChecksumError, e.FlexibleChecksumError)
    return TransportError if isinstance(error, lost) else StorageError


def _line(uri: str, error: object) -> str:
    return f"{uri}: {' '.join(str(error).split())}"


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
