"""Lists that people write: text files with an entry a line."""

from __future__ import annotations

from cliploom import storage
from cliploom.errors import InputError


def read(uri: str, key: str) -> list[str]:
    """The lines of a UTF-8 text file; the mark that some editors put before the first is none of it.

    Raises:
        InputError: there is no such file, or it is no such text; names the setting `key`.
    """
    try:
        return storage.read(uri).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{key}: there is no file {uri}") from None
    except UnicodeDecodeError:
        raise InputError(f"{key}: {uri} is not UTF-8 text") from None
