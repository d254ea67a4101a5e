"""Whether a version passes its evaluation.

Gates judge 95 % intervals, not points. A floor is what a version has to show: the lower end of its interval must reach
it. The other gates fail a version for what has been shown of it: that it is worse than the champion by more than is
allowed, that samples which training holds have raised its accuracy, that it gives way under distribution shift. Where
overlap or robustness were not measured, nothing can be said for the version, and their gates fail it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cliploom.config import nearest
from cliploom.errors import InputError
from cliploom.evaluation.intervals import Estimate
from cliploom.evaluation.overlap import Overlap
from cliploom.evaluation.results import AnyRow, Row, lookup
from cliploom.evaluation.robustness import Shift
from cliploom.evaluation.suite import KINDS, Suite
from cliploom.settings.evaluation import Evaluate
from cliploom.settings.registry import Gates

_SIGNIFICANT = 0.05  # p, corrected for the number of data sets


class Verdict(NamedTuple):
    """The outcome, and a line for each gate that decided it."""

    passed: bool
    reasons: list[str]


def check(settings: Evaluate, suite: Suite) -> None:
    """Find out, before anything is computed, whether the suite measures what the gates judge.

    Raises:
        InputError: names the first that it doesn't.
    """
    gates = settings.gates
    known = [
        f"{entry.name}/{metric}" for entry in suite.entries for task in entry.tasks for metric in entry.metrics_of(task)
    ]
    for key in gates.floors:
        if key not in known:
            raise InputError(f"evaluate.gates.floors: the suite {suite.name} has no {key}{nearest(key, known)}")
    classified = any("classification" in KINDS[task] for entry in suite.entries for task in entry.tasks)
    for name in (name for name in ("max_overlap", "max_overlap_gain") if getattr(gates, name) is not None):
        if settings.overlap.manifest is None:
            raise InputError(f"evaluate.gates.{name} needs evaluate.overlap.manifest, the training data to look in")
        if not classified:
            raise InputError(f"evaluate.gates.{name}: the suite {suite.name} has no task of classification")
    if gates.min_robustness is not None:
        if not any(entry.shift_of for entry in suite.entries):
            raise InputError(f"evaluate.gates.min_robustness: the suite {suite.name} has no shift (shift_of)")
        if settings.references is None:
            raise InputError("evaluate.gates.min_robustness needs evaluate.references, what other models reach")


def judge(
    rows: Sequence[Row],
    gates: Gates,
    champion: Sequence[AnyRow] = (),
    shifts: Sequence[Shift] = (),
    overlaps: Sequence[Overlap] = (),
) -> Verdict:
    """Hold results against the gates.

    Args:
        rows: of the version.
        gates: what it must reach.
        champion: rows of the version in use; metrics that it was not measured on decide nothing.
        shifts: the version under distribution shift.
        overlaps: of the test sets with the training data.

    Returns:
        The verdict; its reasons are the gates that failed or, if all passed, one line that says so.
    """
    pairs = [(row, best) for row in rows if (best := _of_champion(row, champion))]
    failed = [
        *_below_floors(rows, gates),
        *_regressions(pairs, gates.max_regression),
        *_overlapping(overlaps, gates),
        *_giving_way(shifts, gates.min_robustness),
    ]
    if failed:
        return Verdict(False, failed)
    floors = f"all floors reached ({len(gates.floors)})" if gates.floors else "no floors set"
    against = f"no regression against the champion ({len(pairs)} metrics)" if pairs else "no champion to compare with"
    more = [
        f"{name} within limits ({len(found)})"
        for name, found, limit in (
            ("overlap", overlaps, (gates.max_overlap, gates.max_overlap_gain)),
            ("robustness", shifts, (gates.min_robustness,)),
        )
        if any(one is not None for one in limit)
    ]
    return Verdict(True, [", ".join([floors, against, *more])])


def difference(first: Estimate, second: Estimate) -> Estimate:
    """`second` less `first` with its 95 % interval, by Newcombe's method (1998, "Interval estimation for the difference
    between independent proportions", method 10).

    Two models that are measured on the same samples are not independent: then the interval is rather too wide.
    """
    value = second.value - first.value
    down = math.hypot(second.value - second.low, first.high - first.value)
    up = math.hypot(second.high - second.value, first.value - first.low)
    return Estimate(value, value - down, value + up)


def _of_champion(row: Row, champion: Sequence[AnyRow]) -> AnyRow | None:
    best = lookup(champion, row["dataset"], row["metric"])
    return best if best and best["suite"] == row["suite"] else None


def _below_floors(rows: Sequence[Row], gates: Gates) -> Iterator[str]:
    for key, floor in gates.floors.items():
        row = lookup(rows, *key.rsplit("/", 1))
        if row is None:
            yield f"{key} was not measured, its floor is {floor:.1%}"
        elif row["value"] < floor:
            yield f"{key} is {row['value']:.1%}, below its floor of {floor:.1%}"
        elif row["low"] < floor:
            yield f"{key} is {row['value']:.1%}, its interval from {row['low']:.1%} on, below its floor of {floor:.1%}"


def _regressions(pairs: Sequence[tuple[Row, AnyRow]], allowed: float) -> Iterator[str]:
    for row, best in pairs:
        change = difference(_estimate(best), _estimate(row))
        if change.high < -allowed:
            yield (
                f"{row['dataset']}/{row['metric']} is {row['value']:.1%}, the champion's {best['value']:.1%}: "
                f"a loss of {-100 * change.high:.1f} to {-100 * change.low:.1f} points"
            )


def _overlapping(overlaps: Sequence[Overlap], gates: Gates) -> Iterator[str]:
    if (gates.max_overlap, gates.max_overlap_gain) != (None, None) and not overlaps:
        yield "overlap with the training data was not measured: no data set of the suite has one class a sample"
    for one in overlaps:
        if gates.max_overlap is not None and one.share > gates.max_overlap:
            yield f"{one.dataset}: training holds {one.share:.1%} of its samples, more than {gates.max_overlap:.1%}"
        if gates.max_overlap_gain is not None:
            yield from _gaining(one, gates.max_overlap_gain)


def _gaining(one: Overlap, most: float) -> Iterator[str]:
    if one.gain is None:
        yield f"{one.dataset}: what samples that training holds add was not measured, since it holds all of them"
    elif one.corrected is not None and one.corrected < _SIGNIFICANT and one.gain > most:  # None where none overlaps
        yield (
            f"{one.dataset}: samples that training holds add {100 * one.gain:.1f} points (p = {one.corrected:.2g}), "
            f"more than {100 * most:.1f}"
        )


def _giving_way(shifts: Sequence[Shift], least: float | None) -> Iterator[str]:
    if least is None:
        return
    if not shifts:
        yield "effective robustness was not measured: the suite has no shift"
    for one in shifts:
        name = f"{one.shift_name} ({one.classifier})"
        if one.effective is None:
            yield (
                f"{name}: effective robustness was not measured: evaluate.references needs three models or more, of "
                f"different accuracies, with {one.base_name}/{one.shift_name} and {one.shift_name}"
            )
        elif one.effective.high < least:
            yield (
                f"{name}: effective robustness is {100 * one.effective.value:+.1f} points "
                f"(95 % interval up to {100 * one.effective.high:+.1f}), below {100 * least:+.1f}"
            )


def _estimate(row: AnyRow | Row) -> Estimate:
    return Estimate(row["value"], row["low"], row["high"])
