"""Review: versions compared by their intervals, and the decision which one is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cliploom.errors import InputError
from cliploom.registry import catalog, store
from cliploom.registry.catalog import CHAMPION, EVALUATION, PREVIOUS, Row, Version

REVIEW = "review"  # tag: approved or rejected


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


def approve(uri: str, version: Version, by: str, why: str = "", override: bool = False) -> None:
    """Make `version` the champion; the champion before it gets the alias `previous`.

    The decision is written before the aliases move, so that a champion always says who approved it. Approving the
    champion again changes its tags alone.

    Args:
        uri: of the store.
        version: as it stands now.
        by: who decides.
        why: the reason; needed with `override`.
        override: approve it although it has not passed its evaluation.

    Raises:
        InputError: it has not passed, and there is no override with a reason.
    """
    outcome = version.tags.get(EVALUATION)
    if outcome != "passed":
        state = "is not evaluated" if outcome is None else f"has {outcome} its evaluation"
        if not override:
            raise InputError(f"{version.uri} {state}: review.override=true and a reason approve it all the same")
        if not why:
            raise InputError(f"{version.uri} {state}: an override needs a reason")
    before = catalog.champion(uri, version.name)
    _decide(uri, version, "approved", by, why, override=outcome != "passed")
    client = store.client(uri)
    if before and before.version != version.version:
        client.set_registered_model_alias(version.name, PREVIOUS, str(before.version))
    client.set_registered_model_alias(version.name, CHAMPION, str(version.version))


def reject(uri: str, version: Version, by: str, why: str = "") -> None:
    """Mark `version` as rejected.

    Raises:
        InputError: it is the champion.
    """
    if CHAMPION in version.aliases:
        raise InputError(f"{version.uri} is the champion: approve another version instead")
    _decide(uri, version, "rejected", by, why, override=False)


def _decide(uri: str, version: Version, decision: str, by: str, why: str, override: bool) -> None:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    details = {"review.by": by, "review.when": when, "review.why": why, "review.override": str(override).lower()}
    catalog.set_tags(uri, version, {**details, REVIEW: decision})


def _key(row: Row) -> tuple[str, str, str]:
    return row["dataset"], row["task"], row["metric"]
