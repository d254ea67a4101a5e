"""The review in a terminal of 80 columns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from cliploom.registry.catalog import DIGESTS, EVALUATION, Row, Version
from cliploom.registry.history import Decision, History, moves_by_hand
from cliploom.registry.review import REVIEW, Comparison, compare

METRICS_LISTED = 6  # of a version in the list
_LEGEND = Text("~ the 95 % intervals overlap: the difference may be chance", style="dim")
_COLOURS = {"passed": "green", "approved": "green", "failed": "red", "rejected": "red", "rolled back": "red"}


def version_list(
    versions: Sequence[Version], results: Mapping[int, Sequence[Row]], champion: Version | None
) -> RenderableType:
    """The versions of a model, newest first: what each is, and its main metrics beside the champion's.

    Args:
        versions: of one model.
        results: rows of `results.json` by version number.
        champion: the approved version, which the others are compared with.
    """
    table = _table("", "alias, state", "samples", "created")
    table.add_row("", "  metric", "% [95 %]", "vs champion", style="bold")
    reference = results.get(champion.version, []) if champion else []
    for version in sorted(versions, key=lambda v: v.version, reverse=True):
        words = [*version.aliases, version.tags.get(EVALUATION, "not evaluated"), version.tags.get(REVIEW, "")]
        state = Text(", ").join(Text(word, style=_COLOURS.get(word, "")) for word in words if word)
        samples = count(version.tags.get("samples_seen"))
        table.add_section()
        table.add_row(Text(str(version.version), "bold"), state, samples, f"{version.created:%Y-%m-%d}")
        rows = main_metrics(results.get(version.version, []))
        against = {id(c.second): c for c in compare(reference, rows)} if version != champion else {}
        for row in rows[:METRICS_LISTED]:
            table.add_row("", f"  {row['dataset']} {row['metric']}", interval(row), _difference(against.get(id(row))))
        if len(rows) > METRICS_LISTED:
            table.add_row("", f"  {len(rows) - METRICS_LISTED} more: show {version.version}")
    return Group(table, _LEGEND)


def version_page(version: Version, rows: Sequence[Row], champion: Version | None, reference: Sequence[Row]) -> Group:
    """All about one version: card, tags, and its results beside the champion's."""
    tags = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    tags.add_column()
    tags.add_column(overflow="fold")
    tags.add_row("run", version.run_id)
    tags.add_row("aliases", ", ".join(version.aliases) or "none")
    for key, value in sorted(version.tags.items()):
        if value and key != DIGESTS and not key.startswith("stack."):  # the card has those
            tags.add_row(key, Text(value, style=_COLOURS.get(value, "")))
    parts: list[RenderableType] = [Markdown(version.card), "", tags]
    if rows and champion and champion.version != version.version:
        parts += ["", comparison(champion, version, compare(reference, rows))]
    return Group(*parts)


def comparison(first: Version, second: Version, comparisons: Sequence[Comparison]) -> RenderableType:
    """A row a metric that both were evaluated on."""
    if not comparisons:
        return Text(f"versions {first.version} and {second.version} have no evaluated metric in common")
    table = _table("metric", *(f"{version.version}: % [95 %]" for version in (first, second)), "difference")
    for dataset, group in itertools.groupby(comparisons, key=lambda one: one.dataset):
        table.add_row(Text(dataset, "bold"))
        for one in group:
            table.add_row(f"  {one.metric}", interval(one.first), interval(one.second), _difference(one))
    return Group(table, _LEGEND)


def decisions(history: History) -> RenderableType:
    """The history of a model's decisions, newest first."""
    if not history.decisions:
        return Text("no decision has been made yet")
    table = _table("", "decision", "version", "champion")
    moved = moves_by_hand(history.decisions)
    for number, one in reversed(list(enumerate(history.decisions, 1))):
        verdict = Text(one.verdict, style=_COLOURS[one.verdict])
        table.add_section()
        table.add_row(Text(str(number), "bold"), verdict, str(one.version), _move(one.found, one.champion))
        notes = [f"{one.by}, {one.when}", one.why, *gates_of(one)]
        if number in moved:
            notes.append(f"before that the champion was moved {_move(*moved[number])} without a decision")
        table.add_row("", "\n".join(note for note in notes if note))
    return Group(table, *(Text(f"the history was changed: {fault}", "bold red") for fault in history.faults))


def gates_of(one: Decision) -> list[str]:
    """What the gates had said of the version that was decided on."""
    outcome = f"evaluation {one.evaluation}" if one.evaluation else "not evaluated"
    return [f"{outcome}{', overridden' if one.override else ''}{': ' + one.reasons if one.reasons else ''}"]


def _move(before: int | None, after: int | None) -> str:
    """A change of the champion."""
    names = ["none" if number is None else str(number) for number in (before, after)]
    return names[1] if before == after else " -> ".join(names)


def _table(*columns: str) -> Table:
    """A table without lines, numbers to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i > 1 or (i and len(columns[0])) else "left", overflow="fold")
    return table


def main_metrics(rows: Sequence[Row]) -> list[Row]:
    """The first metric of each dataset and task, which evaluation writes as the one that counts."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row["dataset"], row["task"]), row)
    return list(first.values())


def interval(row: Row) -> str:
    """Value and 95 % interval, in per cent."""
    return f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _difference(one: Comparison | None) -> Text:
    """In percentage points; marked `~` where the intervals overlap, coloured where they don't."""
    if one is None:
        return Text("")
    style = "" if one.overlap else ("green" if one.difference > 0 else "red")
    return Text(f"{100 * one.difference:+.1f}{' ~' if one.overlap else ''}", style=style)


def count(text: str | None) -> str:
    """A number of samples, short: 94.5k, 1.2M."""
    if text is None:
        return ""
    number = float(text)
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
