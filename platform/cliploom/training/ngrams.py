"""The dictionary of n-grams that a run's network predicts, where its objective has one."""

from __future__ import annotations

import hashlib

from torch import Tensor

from cliploom import objectives, storage
from cliploom.config import Config, require
from cliploom.errors import InputError, refused
from cliploom.objectives import dictionary


def read(config: Config, vocab_size: int, known_digest: str | None = None) -> Tensor | None:
    """The table in `objective.ngrams`, int64 [K]; None where the objective has no dictionary.

    Args:
        config: of the run.
        vocab_size: of its model.
        known_digest: of the table that the run was begun with.

    Raises:
        InputError: the file is missing, damaged, or another than the run was begun with.
        TransportError: it can't be read now.
    """
    if not objectives.objective(config.objective.name).needs_ngrams:
        return None
    require(config, "objective.ngrams")
    uri = storage.absolute(str(config.objective.ngrams))
    try:
        with refused(f"the dictionary {uri} (objective.ngrams) can't be read", OSError):
            table = dictionary.unpack(storage.read(uri), vocab_size, uri)
    except FileNotFoundError:
        raise InputError(f"there is no dictionary {uri} (objective.ngrams): make one with jobs/ngrams.py") from None
    if known_digest is not None and digest(table) != known_digest:
        raise InputError(f"{uri} (objective.ngrams) has changed since the run began: restore it, or begin a run anew")
    return table


def digest(table: Tensor) -> str:
    """SHA-256 of a table."""
    return f"sha256:{hashlib.sha256(table.numpy().tobytes()).hexdigest()}"
