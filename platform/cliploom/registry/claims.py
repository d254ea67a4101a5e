"""Claims on the evaluation of a version: of several evaluators one gets it, and that of a killed one lapses.

Each claim is the next entry of a `journal` in the version's run. Its holder renews the version's tag
`evaluation.claim`; where that has not happened for `evaluate.lease_seconds`, or the claim was let go, another evaluator
may add the next entry. The clocks of evaluators must agree to much less than that time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from cliploom.errors import InputError, StorageError
from cliploom.registry import catalog, journal, store
from cliploom.registry.catalog import EVALUATION, Version

CLAIM = "evaluation.claim"  # tag of the version
ATTEMPTS = 3  # evaluations that may fail before a version is left alone
_RENEWALS = 5  # a lease
_log = logging.getLogger(__name__)


class Claim:
    """The right to evaluate a version, for the time of a `with` block. Made by `claim`."""

    def __init__(self, uri: str, version: Version, number: int, owner: str, lease: float) -> None:
        self.version = version
        self._uri, self._number, self._owner, self._lease = uri, number, owner, lease
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="evaluation-claim", daemon=True)

    def __enter__(self) -> Claim:
        self._tell("running")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._keep("ended")

    def holds(self) -> bool:
        """Whether nobody has taken the work over meanwhile."""
        return len(_entries(self._uri, self.version)) == self._number

    def _renew(self) -> None:
        while not self._ended.wait(self._lease / _RENEWALS) and self._keep("running"):
            pass

    def _keep(self, state: str) -> bool:
        """Tell the state of the claim if it still holds; whether it does, as far as MLflow lets us know.

        The lease is longer than a short absence of the server, and what the evaluation itself fails of is to be told.
        """
        from mlflow.exceptions import MlflowException

        try:
            if not self.holds():
                return False  # the tag is another's now
            self._tell(state)
        except (InputError, StorageError, MlflowException) as error:
            _log.warning("the claim on %s could not be renewed: %s", self.version.uri, store.one_line(error))
        return True

    def _tell(self, state: str) -> None:
        known = {"number": self._number, "owner": self._owner, "state": state, "when": _now().isoformat()}
        catalog.set_tags(self._uri, self.version, {CLAIM: json.dumps(known)})


def pending(uri: str, name: str, lease: float) -> Iterator[Claim]:
    """Claims on the versions that are not evaluated and that nobody else evaluates, oldest first, one at a time."""
    for version in catalog.candidates(uri, name):
        if found := claim(uri, version, lease):
            yield found


def claim(uri: str, version: Version, lease: float) -> Claim | None:
    """Claim a version; None where somebody else has it, or it has been evaluated, or given up.

    Args:
        uri: of the store.
        version: to be evaluated; read again, since it may have been listed long ago.
        lease: seconds without a renewal after which the claim is anybody's.

    Raises:
        InputError: the version is gone, or the server gives no permission.
        StoreError: the server can't be reached.
    """
    entries = _entries(uri, version)
    if len(entries) >= ATTEMPTS:
        return None
    version = catalog.resolve(uri, version.uri)
    if EVALUATION in version.tags or (entries and _is_held(version, entries, lease)):
        return None
    owner = f"{socket.gethostname()}:{os.getpid()}"
    entry = {"owner": owner, "when": _now().isoformat(), "nonce": journal.nonce()}
    number = len(entries) + 1
    with store.permitted(uri):
        if not journal.add(store.client(uri), version.run_id, _prefix(version), number, json.dumps(entry)):
            return None
    if EVALUATION in catalog.resolve(uri, version.uri).tags:  # by one whose claim had lapsed, just now
        return None
    return Claim(uri, version, number, owner, lease)


def _is_held(version: Version, entries: list[str], lease: float) -> bool:
    """Whether the last claim is one that its holder works on."""
    told = json.loads(version.tags.get(CLAIM, "{}"))
    if told.get("number") != len(entries):  # it was made just now, or its holder died before the first renewal
        told = json.loads(entries[-1]) | {"state": "running"}
    age = (_now() - datetime.fromisoformat(told["when"])).total_seconds()
    return told["state"] == "running" and age < lease


def _entries(uri: str, version: Version) -> list[str]:
    with store.permitted(uri):
        return journal.read(store.client(uri), version.run_id, _prefix(version))


def _prefix(version: Version) -> str:
    """Of the entries' keys; a run may have versions of several models, whose names may hold what a key may not."""
    return f"evaluation.{hashlib.sha256(version.name.encode()).hexdigest()[:8]}-{version.version}"


def _now() -> datetime:
    return datetime.now(UTC)
