"""A local file written beside its place, and put into place whole.

Its writer holds a lock on it. What a killed writer leaves has none, and is removed by the next process that writes into
the folder.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

PREFIX = ".aside-"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


class Aside:
    """A context manager; what is written to `path` stands at `target` once it is committed, and nowhere otherwise."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Aside:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(self.target.parent.absolute())
        self._handle, self.path = _own_file(self.target.parent)
        return self

    def write(self, pieces: Iterable[memoryview]) -> None:
        """Write the whole file."""
        with self.path.open("wb") as file:
            file.writelines(pieces)

    def commit(self, new: bool = False) -> bool:
        """Put the file into place, durably; with `new` only where there is none."""
        self.path.chmod(0o644)
        os.fsync(self._handle)
        if new:
            try:
                os.link(self.path, self.target)
            except FileExistsError:
                return False
        else:
            self.path.replace(self.target)
        _sync(self.target.parent)
        return True

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._handle)


def _own_file(folder: Path) -> tuple[int, Path]:
    """A new file that this process has locked."""
    while True:
        handle, name = tempfile.mkstemp(prefix=PREFIX, dir=folder)
        if _lock(handle, without_locks=True) and Path(name).exists():
            return handle, Path(name)
        os.close(handle)  # a process that looked for left files was faster


@functools.cache
def _remove_left(folder: Path) -> None:
    for path in folder.glob(f"{PREFIX}*"):
        try:
            handle = os.open(path, os.O_RDWR)
        except (FileNotFoundError, PermissionError):  # its writer has finished, or is another user
            continue
        if _lock(handle, without_locks=False):
            path.unlink(missing_ok=True)
        os.close(handle)


def _lock(handle: int, without_locks: bool) -> bool:
    """Whether no other process has the file; `without_locks` on a file system that can't tell."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return without_locks
    return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
