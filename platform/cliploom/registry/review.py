"""Review: versions compared by their intervals, and the decision which one is used.

A decision is first written into the `history`, where of several that are made at once one wins; aliases and tags are
then made to follow. Whoever dies between the two leaves a decision that the next command brings to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cliploom.errors import InputError
from cliploom.registry import catalog, history, store
from cliploom.registry.catalog import CHAMPION, EVALUATION, PREVIOUS, Row, Version
from cliploom.registry.history import Decision, History

REVIEW = "review"  # tag: approved, rejected or rolled back


@dataclass(frozen=True)
class Comparison:
    """One metric of two versions."""

    dataset: str
    task: str
    metric: str
    first: Row
    second: Row

    @property
    def difference(self) -> float:
        """The second's value less the first's."""
        return float(self.second["value"] - self.first["value"])

    @property
    def overlap(self) -> bool:
        """Whether the 95 % intervals overlap: then the difference may be chance."""
        return bool(self.first["low"] <= self.second["high"] and self.second["low"] <= self.first["high"])


def compare(first: Sequence[Row], second: Sequence[Row]) -> list[Comparison]:
    """What two evaluations have in common, in the second's order."""
    known = {_key(row): row for row in first}
    return [Comparison(*_key(row), known[_key(row)], row) for row in second if _key(row) in known]


def approve(
    uri: str, version: Version, by: str, why: str = "", override: bool = False, seen: History | None = None
) -> None:
    """Make `version` the champion; the champion before it gets the alias `previous`.

    Args:
        uri: of the store.
        version: as it stands now.
        by: who decides.
        why: the reason; needed with `override`.
        override: approve it although it has not passed its evaluation.
        seen: the history that the decision is made in knowledge of; by default as it is now.

    Raises:
        InputError: it has not passed, and there is no override with a reason; or somebody else decided meanwhile.
    """
    outcome = version.tags.get(EVALUATION)
    if outcome != "passed":
        state = "is not evaluated" if outcome is None else f"has {outcome} its evaluation"
        if not override:
            raise InputError(f"{version.uri} {state}: --override and a reason approve it all the same")
        if not why:
            raise InputError(f"{version.uri} {state}: an override needs a reason")
    seen = settled(uri, version.name, seen)
    before, previous = _alias(uri, version.name, CHAMPION), _alias(uri, version.name, PREVIOUS)
    decision = _decision("approved", version, by, why, outcome != "passed")
    after = replace(decision, found=before, champion=version.version)
    _decide(uri, version.name, replace(after, previous=previous if before == version.version else before), seen)


def reject(uri: str, version: Version, by: str, why: str = "", seen: History | None = None) -> None:
    """Mark `version` as rejected: it is no version to go back to either.

    Raises:
        InputError: it is the champion, or somebody else decided meanwhile.
    """
    seen = settled(uri, version.name, seen)
    champion, previous = _alias(uri, version.name, CHAMPION), _alias(uri, version.name, PREVIOUS)
    if champion == version.version:
        raise InputError(f"{version.uri} is the champion: approve another version instead, or roll back")
    decision = replace(_decision("rejected", version, by, why), found=champion, champion=champion)
    line = [number for number in _line(uri, version.name, seen, champion, previous) if number != version.version]
    left = line[-1] if line else None
    _decide(uri, version.name, replace(decision, previous=left), seen)


def rollback(uri: str, name: str, by: str, why: str, seen: History | None = None) -> Version:
    """Withdraw the champion: the one before it is the champion again, and `previous` the one before that.

    Returns:
        The version that is the champion now.

    Raises:
        InputError: there is none to go back to, or no reason; or somebody else decided meanwhile.
    """
    if not why:
        raise InputError("a rollback needs a reason")
    seen = settled(uri, name, seen)
    champion, previous = _alias(uri, name, CHAMPION), _alias(uri, name, PREVIOUS)
    line = _line(uri, name, seen, champion, previous)
    if champion is None or not line:
        raise InputError(f"{name} has no {'champion' if champion is None else 'version to go back to'}")
    decision = _decision("rolled back", catalog.resolve(uri, f"models:/{name}/{champion}"), by, why)
    after = replace(decision, found=champion, champion=line[-1], previous=line[-2] if line[:-1] else None)
    _decide(uri, name, after, seen)
    return catalog.resolve(uri, f"models:/{name}/{line[-1]}")


def settled(uri: str, name: str, seen: History | None = None) -> History:
    """The history, after a decision whose author was killed on the way to the aliases has been brought there.

    Args:
        uri: of the store.
        name: of the registered model.
        seen: a history that was read before, which is kept: so it is noticed that it has grown.
    """
    now = history.read(uri, name)
    if now.applied < len(now.decisions):
        _apply(uri, name)
    return seen or now


def _decision(verdict: history.Verdict, version: Version, by: str, why: str, override: bool = False) -> Decision:
    return Decision(
        verdict=verdict,
        version=version.version,
        by=by,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        why=why,
        override=override,
        evaluation=version.tags.get(EVALUATION, ""),
        reasons=version.tags.get("evaluation.reasons", ""),
        found=None,
        champion=None,
        previous=None,
    )


def _decide(uri: str, name: str, decision: Decision, seen: History) -> None:
    """Write the decision into the history, which settles who decides; aliases and tags follow from it."""
    if not history.add(uri, name, decision, seen):
        other = history.read(uri, name).decisions[-1]
        raise InputError(
            f"{other.by} decided meanwhile: version {other.version} of {name} is {other.verdict} ({other.when}); "
            "look at it, and decide again"
        )
    _apply(uri, name)


def _apply(uri: str, name: str) -> None:
    """Make aliases and tags those of the last decision; of one that comes meanwhile, if there is one."""
    client, done = store.client(uri), -1
    while len((now := history.read(uri, name)).decisions) != done:
        last, done = now.decisions[-1], len(now.decisions)
        details = {"by": last.by, "when": last.when, "why": last.why, "override": str(last.override).lower()}
        tags = {f"review.{key}": value for key, value in details.items()} | {REVIEW: last.verdict}
        with store.permitted(uri):
            for key, value in tags.items():
                client.set_model_version_tag(name, str(last.version), key, value)
            for alias, version in ((PREVIOUS, last.previous), (CHAMPION, last.champion)):
                if version is not None:
                    client.set_registered_model_alias(name, alias, str(version))
                elif _alias(uri, name, alias) is not None:
                    client.delete_registered_model_alias(name, alias)
        history.mark_applied(uri, name, now)


def _alias(uri: str, name: str, alias: str) -> int | None:
    """The version that has the alias."""
    number = store.client(uri).get_registered_model(name).aliases.get(alias)
    return None if number is None else int(number)


def _line(uri: str, name: str, seen: History, champion: int | None, previous: int | None) -> list[int]:
    """The versions to go back to from the champion, the next one last; those that are still there."""
    known = {v.version for v in catalog.versions(uri, name)} - {champion}
    line = [number for number in seen.line if number in known and number != previous]
    return [*line, previous] if previous in known else line


def _key(row: Row) -> tuple[str, str, str]:
    return row["dataset"], row["task"], row["metric"]
