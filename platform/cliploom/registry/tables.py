"""The review in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from cliploom.registry.catalog import EVALUATION, Row, Version
from cliploom.registry.review import REVIEW, Comparison, compare

_METRICS_LISTED = 4  # of a version in the list
_COLOURS = {"passed": "green", "approved": "green", "failed": "red", "rejected": "red"}


def version_list(
    versions: Sequence[Version], results: Mapping[int, Sequence[Row]], champion: Version | None
) -> RenderableType:
    """A row a version, newest first: what it is, and its main metrics beside the champion's.

    Args:
        versions: of one model.
        results: rows of `results.json` by version number.
        champion: the approved version, which the others are compared with.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name, kind in [("", "right"), ("alias", "left"), ("state", "left"), ("metric", "left")]:
        table.add_column(name, justify=kind)  # type: ignore[arg-type]
    for name in ("% [95 %]", "vs champion", "samples"):
        table.add_column(name, justify="right", no_wrap=name != "vs champion")
    table.add_column("created")
    reference = results.get(champion.version, []) if champion else []
    for version in sorted(versions, key=lambda v: v.version, reverse=True):
        rows = main_metrics(results.get(version.version, []))[:_METRICS_LISTED]
        against = {id(c.second): c for c in compare(reference, rows)} if version != champion else {}
        table.add_row(
            str(version.version),
            "\n".join(version.aliases),
            _state(version),
            "\n".join(f"{row['dataset']} {row['metric']}" for row in rows),
            "\n".join(interval(row) for row in rows),
            Text("\n").join(_difference(against.get(id(row))) for row in rows),
            _count(version.tags.get("samples_seen")),
            f"{version.created:%Y-%m-%d %H:%M}",
        )
    return table


def version_page(version: Version, rows: Sequence[Row], champion: Version | None, reference: Sequence[Row]) -> Group:
    """All about one version: card, tags, and its results beside the champion's."""
    tags = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    tags.add_row("run", version.run_id)
    tags.add_row("aliases", ", ".join(version.aliases) or "none")
    for key, value in sorted(version.tags.items()):
        tags.add_row(key, Text(value, style=_COLOURS.get(value, "")))
    parts: list[RenderableType] = [Markdown(version.card), "", tags]
    if rows and champion and champion.version != version.version:
        parts += ["", comparison(champion, version, compare(reference, rows))]
    return Group(*parts)


def comparison(first: Version, second: Version, comparisons: Sequence[Comparison]) -> RenderableType:
    """A row a metric that both were evaluated on."""
    if not comparisons:
        return Text(f"versions {first.version} and {second.version} have no evaluated metric in common")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("dataset")
    table.add_column("metric")
    for version in (first, second):
        table.add_column(f"{version.version} % [95 %]", justify="right", no_wrap=True)
    table.add_column("difference", justify="right")
    table.add_column("intervals")
    for one in comparisons:
        verdict = "overlap" if one.overlap else "apart"
        table.add_row(one.dataset, one.metric, interval(one.first), interval(one.second), _difference(one), verdict)
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
    """In percentage points; coloured only where the intervals are apart."""
    if one is None:
        return Text("")
    style = "" if one.overlap else ("green" if one.difference > 0 else "red")
    return Text(f"{100 * one.difference:+.1f}{' ~' if one.overlap else ''}", style=style)


def _state(version: Version) -> Text:
    """Evaluation and decision."""
    words = [version.tags.get(EVALUATION, "not evaluated"), version.tags.get(REVIEW, "")]
    return Text("\n").join(Text(word, style=_COLOURS.get(word, "")) for word in words if word)


def _count(text: str | None) -> str:
    """A number of samples, short: 94.5k, 1.2M."""
    if text is None:
        return ""
    number = float(text)
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
