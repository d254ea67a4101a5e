"""A bounded cache of remote shards on each node: a shard is downloaded once a node, whoever asks for it first.

Where and how large is the node's own matter, so the environment says it: `CLIPLOOM_CACHE` (a folder, by default in the
system's temporary one) and `CLIPLOOM_CACHE_GB` (by default 20). Shards in local folders are read where they are.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cliploom import storage
from cliploom.data import tars
from cliploom.errors import InputError, StorageError

_LIMIT, _DEFAULT_GB = "CLIPLOOM_CACHE_GB", 20.0


class Downloader:
    """Downloads shards before they are read, in a thread beside the process's own work, while it decodes others."""

    def __init__(self) -> None:
        self._asked: Sequence[tuple[str, int, str]] = ()

    def ask(self, shards: Sequence[tuple[str, int, str]]) -> None:
        """Begin with these: URI, size and digest, as `opened` gets them; nothing is done where they were asked last."""
        if shards != self._asked:
            self._asked = shards
            first = os.getpid() % len(shards)  # each process of a node begins with another
            ordered = (*shards[first:], *shards[:first])
            threading.Thread(target=_download_all, args=[ordered], name="downloader", daemon=True).start()


def opened(uri: str, size: int, digest: str) -> IO[bytes]:
    """The shard, open for reading; a remote one from the cache, downloaded and checked if it is not there yet.

    Args:
        uri: of the shard.
        size: of the shard in bytes, as its manifest says.
        digest: as its manifest says; what it is of, content or headers, is checked after the download.

    Raises:
        InputError: the shard is gone, or is not the one that the manifest describes.
        StorageError: it can't be downloaded now.
    """
    try:
        return _cached(uri, size, digest) if storage.is_s3(uri) else _local(uri, size)
    except FileNotFoundError:
        raise InputError(f"shard {uri} is gone: restore it or run jobs/index.py again") from None


def folder() -> Path:
    """Where this node keeps its copies."""
    return Path(os.environ.get("CLIPLOOM_CACHE") or Path(tempfile.gettempdir(), f"cliploom-cache-{os.getuid()}"))


def _local(uri: str, size: int) -> IO[bytes]:
    """A local shard; reading it whole at each opening would cost too much, so that only its size is checked."""
    file = storage.local(uri).open("rb")
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        raise _changed(uri)
    return file


def _cached(uri: str, size: int, digest: str) -> IO[bytes]:
    home = folder()
    home.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(f"{uri}\n{size}\n{digest}".encode()).hexdigest()[:32]
    path = home / f"{name}.tar"
    with _locked(home / f"{name}.lock"):  # others that want this shard wait for its download
        try:
            file: IO[bytes] = path.open("rb")
        except FileNotFoundError:
            file = _download(uri, size, digest, path)
        os.utime(file.fileno())  # the least recently used goes first; by its name it may be gone already
        return file


def _download_all(shards: Sequence[tuple[str, int, str]]) -> None:
    for shard in shards:
        with suppress(InputError, StorageError):  # who reads it meets the same, and says so
            opened(*shard).close()


def _download(uri: str, size: int, digest: str, path: Path) -> IO[bytes]:
    """Put the shard into the cache at `path`; it is open already when others see it, and may delete it for room."""
    aside = path.with_suffix(".download")
    try:
        _reserve(aside, size)
        storage.download(uri, aside)
        with aside.open("rb") as file:
            same = os.fstat(file.fileno()).st_size == size
            if not same or tars.digest(file, size, digest.partition(":")[0]) != digest:
                raise _changed(uri)
        found = aside.open("rb")
        aside.replace(path)
        return found
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(f"{path.parent} has no room for {uri}: free some, or lower {_LIMIT}") from None
    finally:
        aside.unlink(missing_ok=True)


def _changed(uri: str) -> InputError:
    return InputError(f"shard {uri} has changed since its manifest was made: run jobs/index.py again")


def _reserve(aside: Path, size: int) -> None:
    """Delete the least recently used shards until `size` more bytes fit, and take these: `aside` gets that length.

    A process that reads a deleted shard keeps its bytes. `storage.download` writes beside `aside`, which stands for
    what it writes until that takes its place.
    """
    limit = float(os.environ.get(_LIMIT) or _DEFAULT_GB) * 2**30
    with _locked(aside.parent / "room.lock"):
        aside.unlink(missing_ok=True)  # of a process that was killed
        used = size + _under_way(aside.parent)
        known = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in aside.parent.glob("*.tar"))
        used += sum(bytes_ for _, bytes_, _ in known)
        for _, bytes_, path in known:
            if used <= limit:
                break
            path.unlink(missing_ok=True)
            used -= bytes_
        with aside.open("wb") as file:
            file.truncate(size)


def _under_way(home: Path) -> int:
    """Bytes of all downloads; one whose lock nobody holds is a killed process's, and is deleted."""
    used = 0
    for aside in home.glob("*.download"):
        with aside.with_suffix(".lock").open("w") as lock, suppress(FileNotFoundError):  # it ends just now
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                aside.unlink()
            except BlockingIOError:
                used += aside.stat().st_size
    return used


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
