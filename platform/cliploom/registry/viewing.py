"""What a reviewer asks to see: gathered from the registry once, shown in a terminal or as a page that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cliploom.pages import templates
from cliploom.registry import catalog, history, tables
from cliploom.registry.catalog import Row, Version
from cliploom.registry.history import History
from cliploom.registry.review import Comparison, compare

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class View:
    """Something to look at."""

    title: str
    shown: RenderableType
    content: Mapping[str, Any]  # of the page

    def terminal(self) -> RenderableType:
        """For a terminal of 80 columns."""
        return self.shown

    def page(self) -> str:
        """One HTML file that needs no other."""
        from markdown_it import MarkdownIt

        environment = templates("cliploom.registry")
        # No HTML of its own: what stands in a card is shown, never executed.
        environment.filters["markdown"] = MarkdownIt("commonmark", {"html": False}).enable("table").render
        environment.globals.update(
            interval=tables.interval, count=tables.count, gates=tables.gates_of, most=tables.METRICS_LISTED
        )
        made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        nothing: dict[str, Any] = {
            "entries": [],
            "comparisons": None,
            "pair": [],
            "card": None,
            "tags": {},
            "history": None,
        }
        return environment.get_template("review.html.j2").render(
            nothing | dict(self.content), title=self.title, made=made
        )


@dataclass(frozen=True)
class Entry:
    """A version in a list, with its main metrics beside the champion's."""

    version: Version
    rows: Sequence[Row]
    against: Mapping[int, Comparison]  # by place in `rows`


def find(uri: str, name: str, word: str) -> Version:
    """The version that a number or an alias names.

    Raises:
        InputError: there is none.
    """
    return catalog.resolve(uri, f"models:/{name}/{word}" if word.isdigit() else f"models:/{name}@{word}")


def listing(uri: str, name: str) -> View:
    """All versions, beside the champion."""
    known, best = catalog.versions(uri, name), catalog.champion(uri, name)
    results = {v.version: catalog.results(uri, v) for v in known}
    entries = [_entry(v, results, best) for v in reversed(known)]
    content = {"entries": entries, "history": _told(history.read(uri, name))}
    return View(f"Versions of {name}", tables.version_list(known, results, best), content)


def showing(uri: str, name: str, word: str) -> View:
    """One version."""
    one, best = find(uri, name, word), catalog.champion(uri, name)
    rows = catalog.results(uri, one)
    reference = catalog.results(uri, best) if best else []
    content: dict[str, Any] = {"card": one.card, "tags": {"run": one.run_id, **_told_tags(one)}}
    if rows and best and best.version != one.version:
        content |= {"pair": [best, one], "comparisons": compare(reference, rows)}
    return View(f"{name} version {one.version}", tables.version_page(one, rows, best, reference), content)


def comparing(uri: str, name: str, word: str, other: str) -> View:
    """Two versions side by side."""
    first, second = find(uri, name, word), find(uri, name, other)
    compared = compare(catalog.results(uri, first), catalog.results(uri, second))
    title = f"{name}: version {first.version} and version {second.version}"
    content = {"pair": [first, second], "comparisons": compared}
    return View(title, tables.comparison(first, second, compared), content)


def telling(uri: str, name: str) -> View:
    """All decisions."""
    found = history.read(uri, name)
    return View(f"Decisions on {name}", tables.decisions(found), {"history": _told(found)})


def _entry(version: Version, results: Mapping[int, Sequence[Row]], best: Version | None) -> Entry:
    rows = tables.main_metrics(results[version.version])
    if best is None or best.version == version.version:
        return Entry(version, rows, {})
    places = {id(row): place for place, row in enumerate(rows)}
    compared = compare(results[best.version], rows)
    return Entry(version, rows, {places[id(one.second)]: one for one in compared})


def _told_tags(version: Version) -> dict[str, str]:
    return {key: value for key, value in sorted(version.tags.items()) if key != catalog.DIGESTS}


def _told(found: History) -> dict[str, Any]:
    """The history as the page shows it, newest first."""
    decisions = [
        {"number": number, "one": one, "moved": history.moves_by_hand(found.decisions).get(number)}
        for number, one in enumerate(found.decisions, 1)
    ]
    return {"decisions": decisions[::-1], "faults": found.faults}
