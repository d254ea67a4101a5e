"""S3, by way of boto3: objects by their URIs, `s3://bucket/key`; `storage` is what others use.

Faults of transport are tried again for a bounded time (`retrying`); every fault is one of `errors`, of one line.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from cliploom.errors import CredentialsError, StorageError, TransportError
from cliploom.retrying import retried

_MISSING = {"404", "NoSuchKey", "NotFound"}
_PAST_END = {"416", "InvalidRange"}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_BUSY = {"429", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_PASSING = {"InternalError", "ServiceUnavailable", *_BUSY}
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
_DELETE_AT_ONCE = 1000  # S3's limit
_BLOCK = 4 << 20  # bytes a request of reading; what is smaller is read over rather than skipped
_PART = 64 << 20  # bytes a request of downloading; with boto3's 8 MiB it takes twice the CPU
_PATIENCE = (10, 60, 3)  # seconds to connect, seconds to wait for bytes, attempts, all over again in `_call`
_HASTE = (4, 8, 2)  # the same for `probe`, 24 s in all
T = TypeVar("T")


def read(uri: str, start: int, length: int | None) -> bytes:
    """The bytes of an object, or `length` of them from `start`; fewer where it ends before."""
    return _call(uri, lambda client, bucket, key: _get(client, bucket, key, start, length))


def opened(uri: str, size: int) -> IO[bytes]:
    """The object of `size` bytes, open for reading from any place."""
    return io.BufferedReader(_Remote(uri, size))


def size(uri: str) -> int:
    """Bytes of an object."""
    return int(_call(uri, lambda client, bucket, key: client.head_object(Bucket=bucket, Key=key)["ContentLength"]))


def write(uri: str, pieces: Sequence[memoryview]) -> None:
    """Write an object whole or not at all, of pieces one after the other."""
    _call(uri, lambda client, bucket, key: _put(client, bucket, key, pieces))


def create(uri: str, data: bytes) -> bool:
    """Write an object only where there is none; of several writers at once, one gets True."""
    return _call(uri, lambda client, bucket, key: _put_new(client, bucket, key, data))


def upload(path: Path, uri: str) -> None:
    """Copy a local file."""
    _call(uri, lambda client, bucket, key: client.upload_file(str(path), bucket, key))


def download(uri: str, path: Path) -> None:
    """Copy an object into the local file `path`, in place."""
    _call(uri, lambda client, bucket, key: _fetch(client, bucket, key, path))


def files(uri: str) -> list[tuple[str, int]]:
    """URI and bytes of all objects below the folder `uri`, by URI."""
    prefix = uri.rstrip("/") + "/"
    return _call(prefix, lambda client, bucket, key: sorted(_list(client, bucket, key)))


def delete(uris: Sequence[str]) -> None:
    """Remove objects of one bucket; those that are not there are passed over."""
    keys = [_split(uri)[1] for uri in uris]
    _call(uris[-1], lambda client, bucket, _: _delete_keys(client, bucket, keys))


def probe(uri: str) -> None:
    """Write an empty object and remove it, and spend seconds on it rather than minutes."""
    bucket, key = _split(uri)
    hasty = client(*_HASTE)
    _translate(uri, lambda: hasty.put_object(Bucket=bucket, Key=key, Body=b""))
    _translate(uri, lambda: hasty.delete_object(Bucket=bucket, Key=key))


@functools.cache
def client(connect_seconds: int, read_seconds: int, attempts: int) -> Any:
    """An S3 client; made once a process, since making one takes some 100 ms."""
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": attempts}
    config = Config(
        connect_timeout=connect_seconds, read_timeout=read_seconds, retries=retries, max_pool_connections=32
    )
    # A session of its own: boto3's default one is not safe to make in several threads, and keeps old credentials.
    return boto3.Session().client("s3", config=config, region_name=os.environ.get("AWS_REGION") or None)


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
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, io_chunksize=1 << 20)
    with path.open("wb") as file:  # boto3's download_file would put another file, without a lock, in its place
        client.download_fileobj(bucket, key, file, Config=config)


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
            self._block = read(self._uri, self._at, min(_BLOCK, self._size - self._at))
            self._block_at = self._at
        first = self._at - self._block_at
        data = self._block[first : first + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _put(client: Any, bucket: str, key: str, pieces: Sequence[memoryview]) -> None:
    if sum(piece.nbytes for piece in pieces) <= _BLOCK:
        client.put_object(Bucket=bucket, Key=key, Body=b"".join(pieces))
    else:  # in several requests, since S3 takes no more than 5 GiB in one
        client.upload_fileobj(io.BufferedReader(_Joined(pieces), _BLOCK), bucket, key)


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


def _list(client: Any, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", []):
            yield f"s3://{bucket}/{found['Key']}", found["Size"]


def _delete_keys(client: Any, bucket: str, keys: list[str]) -> None:
    for start in range(0, len(keys), _DELETE_AT_ONCE):
        batch = {"Objects": [{"Key": key} for key in keys[start : start + _DELETE_AT_ONCE]], "Quiet": True}
        for fault in client.delete_objects(Bucket=bucket, Delete=batch).get("Errors", []):
            kind = TransportError if fault.get("Code") in _PASSING else StorageError
            raise kind(f"s3://{bucket}/{fault.get('Key')} can't be deleted: {fault.get('Message')}")


def _put_new(client: Any, bucket: str, key: str, data: bytes) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if _code(error) in _TAKEN:
            return False
        raise
    return True


def _call(uri: str, call: Callable[[Any, str, str], T]) -> T:
    """`call(client, bucket, key)`, tried again for a bounded time where its fault is one of transport."""
    bucket, key = _split(uri)
    return retried(lambda: _translate(uri, lambda: call(client(*_PATIENCE), bucket, key)), TransportError)


def _translate(uri: str, call: Callable[[], T]) -> T:
    """`call()`, with botocore's exceptions as FileNotFoundError or a StorageError of one line."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError

    try:
        return call()
    except ClientError as error:
        raise _refusal(uri, error) from None
    except Boto3Error as error:  # of a transfer in several parts
        cause = error.__context__
        raise (_refusal(uri, cause) if isinstance(cause, ClientError) else TransportError(_line(uri, error))) from None
    except RetriesExceededError as error:
        raise TransportError(_line(uri, error.last_exception)) from None
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
