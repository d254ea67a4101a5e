"""Whether a version passes its evaluation: it reaches the floors, and is not worse than the champion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cliploom.config import nearest
from cliploom.errors import InputError
from cliploom.evaluation.results import AnyRow, Row, lookup
from cliploom.evaluation.suite import Suite
from cliploom.settings.registry import Gates


class Verdict(NamedTuple):
    """The outcome, and a line for each gate that decided it."""

    passed: bool
    reasons: list[str]


def check(gates: Gates, suite: Suite) -> None:
    """Find out, before anything is computed, whether each floor is one of a metric of the suite.

    Raises:
        InputError: names the first that isn't.
    """
    known = [
        f"{entry.name}/{metric}" for entry in suite.entries for task in entry.tasks for metric in entry.metrics_of(task)
    ]
    for key in gates.floors:
        if key not in known:
            raise InputError(f"evaluate.gates.floors: the suite {suite.name} has no {key}{nearest(key, known)}")


def judge(rows: Sequence[Row], gates: Gates, champion: Sequence[AnyRow] = ()) -> Verdict:
    """Hold results against the floors and, where there is one, against the champion's rows.

    A metric regresses when it is below the lower end of the champion's 95 % interval by more than
    `gates.max_regression`. Metrics that the champion was not measured on decide nothing.

    Returns:
        The verdict; its reasons are the gates that failed or, if all passed, one line that says so.
    """
    reasons = []
    for key, floor in gates.floors.items():
        row = lookup(rows, *key.rsplit("/", 1))
        if row is None:
            reasons.append(f"{key} was not measured, its floor is {floor:.1%}")
        elif row["value"] < floor:
            reasons.append(f"{key} is {row['value']:.1%}, below its floor of {floor:.1%}")
    compared = 0
    for row in rows:
        best = lookup(champion, row["dataset"], row["metric"])
        if best is None or best["suite"] != row["suite"]:
            continue
        compared += 1
        if row["value"] < best["low"] - gates.max_regression:
            reasons.append(
                f"{row['dataset']}/{row['metric']} is {row['value']:.1%}, the champion's {best['value']:.1%} "
                f"(95 % interval from {best['low']:.1%})"
            )
    if reasons:
        return Verdict(False, reasons)
    floors = f"all floors reached ({len(gates.floors)})" if gates.floors else "no floors set"
    against = f"no regression against the champion ({compared} metrics)" if compared else "no champion to compare with"
    return Verdict(True, [f"{floors}, {against}"])
