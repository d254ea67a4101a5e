"""The results as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cliploom.evaluation.report import Champion, interval, percent
from cliploom.evaluation.results import lookup
from cliploom.evaluation.run import Outcome

if TYPE_CHECKING:
    from rich.table import Table


def table(outcome: Outcome, champion: Champion | None) -> Table:
    """All rows beside chance and, where there is one, the champion; at most 80 columns wide."""
    from rich import box
    from rich.table import Table

    found = Table(
        title=f"{outcome.model.title} on {outcome.suite}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1)
    )
    found.add_column("")
    for name in ("value", "95 % interval", "chance", *(["champion"] if champion else [])):
        found.add_column(name, justify="right", no_wrap=True)
    before = None
    for row in outcome.rows:
        if row["dataset"] != before:
            found.add_row(f"[bold]{row['dataset']}")
            before = row["dataset"]
        cells = [f"[bold]{percent(row['value'])}", interval(row["low"], row["high"]), percent(row["chance"])]
        if champion:
            best = lookup(champion.rows, row["dataset"], row["metric"])
            cells.append(percent(best["value"]) if best else "-")
        found.add_row(f"  {row['metric']}", *cells)
    return found
