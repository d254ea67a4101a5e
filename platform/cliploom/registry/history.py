"""The history of a model's decisions: who decided what, when, why, and what the gates had said.

It is a `journal` in the run that registered the model's first version; the registered model's tag `review.journal`
names it. Each decision holds the digest of the one before, and the model's tag `review.head` that of the last one, so
that a change behind MLflow's back does not go unseen.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cliploom.errors import InputError
from cliploom.registry import journal, store

if TYPE_CHECKING:
    from mlflow import MlflowClient

JOURNAL, HEAD = "review.journal", "review.head"  # tags of the registered model
_FORMAT = 1
_WORDS = 1500  # characters of a reason that are kept
Verdict = Literal["approved", "rejected", "rolled back"]


@dataclass(frozen=True)
class Decision:
    """One decision on one version."""

    verdict: Verdict
    version: int  # that was decided on; of a rollback, the champion that was withdrawn
    by: str
    when: str  # ISO 8601, UTC
    why: str
    override: bool  # of a gate that it had not passed
    evaluation: str  # passed or failed; empty where it was not evaluated
    reasons: str  # of the gates
    found: int | None  # the champion before
    champion: int | None  # after
    previous: int | None  # after


@dataclass(frozen=True)
class History:
    """All decisions on a model, oldest first, and what is wrong with them."""

    decisions: tuple[Decision, ...]
    digest: str  # of the last one
    applied: int  # so many stand in the aliases and tags
    faults: tuple[str, ...] = field(default=())

    @property
    def line(self) -> list[int]:
        """The champions up to the present one, each the one to go back to from the next; rejected ones left out."""
        line: list[int] = []
        for one in self.decisions:
            if one.found is not None and one.found not in line:
                line.append(one.found)  # made champion without a decision
            if one.verdict == "approved":
                line = [version for version in line if version != one.version] + [one.version]
            else:
                line = [version for version in line if version != one.version]
        return line


def read(uri: str, name: str) -> History:
    """The history of the registered model `name`, checked."""
    client = store.client(uri)
    return _read(client, name, _place(client, name))


def add(uri: str, name: str, decision: Decision, after: History) -> bool:
    """Add a decision that was made in knowledge of `after`; False where another one was made meanwhile.

    Raises:
        InputError: the server gives no permission, or the run that keeps the history was deleted.
    """
    client = store.client(uri)
    entry = {"format": _FORMAT, "before": after.digest, "nonce": journal.nonce(), **asdict(decision)}
    for key in ("why", "reasons"):
        entry[key] = _cut(entry[key])
    with store.permitted(uri):
        place = _place(client, name)
        if JOURNAL not in client.get_registered_model(name).tags:
            client.set_registered_model_tag(name, JOURNAL, place)
        number = len(after.decisions) + 1
        return journal.add(client, place, _prefix(name), number, json.dumps(entry, ensure_ascii=False))


def mark_applied(uri: str, name: str, history: History) -> None:
    """Note that the aliases and tags are those of the history's last decision."""
    with store.permitted(uri):
        head = f"{len(history.decisions)} {history.digest}"
        store.client(uri).set_registered_model_tag(name, HEAD, head)


def _read(client: MlflowClient, name: str, place: str) -> History:
    texts = journal.read(client, place, _prefix(name))
    head, _, digest = client.get_registered_model(name).tags.get(HEAD, "0 ").partition(" ")
    entries: list[dict[str, Any]] = [json.loads(text) for text in texts]
    digests = ["", *(hashlib.sha256(text.encode()).hexdigest() for text in texts)]
    faults = [
        f"decision {number} does not follow on decision {number - 1} as that one stands now"
        for number, entry in enumerate(entries, 1)
        if entry["before"] != digests[number - 1]
    ]
    if int(head) > len(texts):
        faults.append(f"{head} decisions were made, but only {len(texts)} are there")
    elif digests[int(head)] != digest:
        faults.append(f"decision {head} is not the one that was made")
    for entry in entries:
        if entry["format"] != _FORMAT:
            raise InputError(f"the decisions on {name} have format {entry['format']}: review with a newer cliploom")
    return History(tuple(map(_decision, entries)), digests[-1], int(head), tuple(faults))


def _decision(entry: dict[str, Any]) -> Decision:
    return Decision(**{key: value for key, value in entry.items() if key not in ("format", "before", "nonce")})


def _place(client: MlflowClient, name: str) -> str:
    """The run that keeps the history; of a model that another tool registered, the run of its first version."""
    tags = client.get_registered_model(name).tags
    if JOURNAL in tags:
        return str(tags[JOURNAL])
    page = client.search_model_versions(f"name = '{name}'", order_by=["version_number ASC"], max_results=1)
    if not page or not page[0].run_id:
        raise InputError(f"the first version of {name} belongs to no run, so that decisions on it can't be kept")
    return str(page[0].run_id)


def _prefix(name: str) -> str:
    """Of the entries' keys; a run may have registered several models, whose names may hold what a key may not."""
    return f"review.{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _cut(text: str) -> str:
    return text if len(text) <= _WORDS else text[: _WORDS - 1] + "…"


def moves_by_hand(decisions: Sequence[Decision]) -> dict[int, tuple[int | None, int | None]]:
    """By number of the decision that found it: the champion that a decision had made, and the one that was found."""
    pairs = enumerate(itertools.pairwise(decisions), 2)
    moved = {number: (before.champion, after.found) for number, (before, after) in pairs}
    return {number: pair for number, pair in moved.items() if pair[0] != pair[1]}
