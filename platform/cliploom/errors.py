"""What may go wrong that is not a fault of cliploom's: what the user gave, and storage."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """What the user gave is wrong: a file, a key, a URI, a credential.

    The message is one line that names the culprit and the mend. Jobs print it without a traceback and exit 2.
    """


class StorageError(OSError):
    """Storage can't be reached, or refuses."""


class TransportError(StorageError):
    """A fault on the way to storage, or storage too busy, for all the time that was spent on trying again."""


class CredentialsError(StorageError, InputError):
    """Storage refuses the credentials: the user's to mend, so nothing is tried again."""


@contextmanager
def refused(what: str, kind: type[OSError] = StorageError) -> Iterator[None]:
    """Turn faults of a `kind` inside into an InputError whose line begins with `what`.

    What is not there (FileNotFoundError) is for the caller to explain. A fault of transport is none of the input's: it
    passes, and ends an attempt of a run rather than the run.
    """
    try:
        yield
    except (FileNotFoundError, TransportError):
        raise
    except kind as error:
        raise InputError(f"{what}: {error}") from None
