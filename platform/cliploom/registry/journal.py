"""Lists of texts in MLflow that are only ever added to, by several processes at once.

MLflow can't compare and set: whoever writes an alias or a tag last has it. But a parameter of a run keeps the value
that it was given first (its table has one row a run and key), and nothing in MLflow's interface changes or removes one.
So the entries of a list are parameters of a run, PREFIX.0001 and so on: of several processes that write the same entry,
one succeeds, and the others see that they don't.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from cliploom.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

LIMIT = 6000  # characters of an entry; MLflow cuts longer values without a word


def read(client: MlflowClient, run_id: str, prefix: str) -> list[str]:
    """The entries of a list, in order, up to the first number that is missing."""
    entry = re.compile(rf"{re.escape(prefix)}\.(\d+)")
    params = client.get_run(run_id).data.params
    found = {int(match[1]): value for key, value in params.items() if (match := entry.fullmatch(key))}
    entries: list[str] = []
    while len(entries) + 1 in found:
        entries.append(found[len(entries) + 1])
    return entries


def add(client: MlflowClient, run_id: str, prefix: str, number: int, text: str) -> bool:
    """Make `text` the entry `number`, from 1; False where there is one already.

    Texts must differ between writers (see `nonce`): an equal one counts as written, so that a request whose answer was
    lost may be sent again.

    Raises:
        InputError: the run was deleted.
    """
    from mlflow.exceptions import MlflowException

    if len(text) > LIMIT:
        raise ValueError(f"an entry of {len(text)} characters, more than {LIMIT}")
    key = f"{prefix}.{number:04d}"
    try:
        client.log_param(run_id, key, text)
    except MlflowException:
        run = client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise InputError(f"MLflow's run {run_id} keeps {prefix} and was deleted: restore it") from None
        if run.data.params.get(key) not in (None, text):
            return False
        raise
    return True


def nonce() -> str:
    """What no other writer has."""
    return uuid.uuid4().hex[:12]
