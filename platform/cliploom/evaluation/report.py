"""The report: one HTML file that stands alone, readable by who has never seen the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cliploom.evaluation.figures import hits_at_k
from cliploom.evaluation.gates import Verdict
from cliploom.evaluation.results import AnyRow, Row, lookup
from cliploom.evaluation.run import Finding, Outcome


@dataclass(frozen=True)
class Champion:
    """The version in use, and its results."""

    title: str
    rows: Sequence[AnyRow]


@dataclass(frozen=True)
class Card:
    """A result of the summary."""

    dataset: str
    row: Row
    label: str
    champion: AnyRow | None
    position: Mapping[str, float]  # of value, low, high, chance and champion on a bar, 0-100


def render(outcome: Outcome, verdict: Verdict, champion: Champion | None) -> str:
    """The page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cliploom.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(interval=interval)
    environment.filters.update(percent=percent, times=_times, label=label, seconds=_seconds)
    kinds = [
        ("Zero-shot classification", [f for f in outcome.findings if f.dataset.kind == "classification"]),
        ("Retrieval", [f for f in outcome.findings if f.dataset.kind == "retrieval"]),
    ]
    return environment.get_template("report.html.j2").render(
        outcome=outcome,
        model=outcome.model,
        verdict=verdict,
        champion=champion,
        when=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        cards=[_card(outcome, finding, champion) for finding in outcome.findings],
        sections=[_section(outcome, title, findings, champion) for title, findings in kinds if findings],
        classified=[finding for finding in outcome.findings if finding.dataset.kind == "classification"],
        retrieved=[finding for finding in outcome.findings if finding.dataset.kind == "retrieval"],
        broken=[_causes(finding) for finding in outcome.findings if finding.broken],
        computed_seconds=sum(finding.model_seconds for finding in outcome.findings),
    )


def percent(share: float) -> str:
    """A share as people read it, with as many digits as tell something: 42.5 %, 0.03 %."""
    return f"{_shown(share)} %"


def interval(low: float, high: float) -> str:
    """The ends of an interval as `percent` gives them, with one percent sign."""
    return f"{_shown(low)} – {_shown(high)} %"


def _times(factor: float) -> str:
    return f"{factor:,.0f} ×" if factor >= 10 else f"{factor:.1f} ×"


def label(metric: str) -> str:
    """A metric's name in words."""
    way, recall, k = metric.partition("_retrieval_recall@")
    if recall:
        return f"{'image of a caption' if way == 'image' else 'caption of an image'}, top {k}"
    return {"acc1": "top 1", "acc5": "top 5", "mean_per_class_recall": "mean per class"}.get(metric, metric)


def _shown(share: float) -> str:
    return f"{100 * share:.2g}" if share < 0.01 else f"{100 * share:.1f}"


def _section(outcome: Outcome, title: str, findings: Sequence[Finding], champion: Champion | None) -> dict[str, Any]:
    names = {finding.dataset.name for finding in findings}
    rows = [row for row in outcome.rows if row["dataset"] in names]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    table = [
        (
            finding,
            [
                (row, lookup(champion.rows, row["dataset"], metric) if champion and row else None)
                for metric in metrics
                for row in [lookup(rows, finding.dataset.name, metric)]
            ],
        )
        for finding in findings
    ]
    curves = [curve for finding in findings for curve in finding.curves]
    return {"title": title, "metrics": metrics, "table": table, "figure": hits_at_k(curves)}


def _card(outcome: Outcome, finding: Finding, champion: Champion | None) -> Card:
    """The first metric of a data set."""
    row = next(row for row in outcome.rows if row["dataset"] == finding.dataset.name)
    best = lookup(champion.rows, row["dataset"], row["metric"]) if champion else None
    shares = {name: row[name] for name in ("value", "low", "high", "chance")}
    if best:
        shares["champion"] = best["value"]
    return Card(
        finding.dataset.name, row, label(row["metric"]), best, {name: 100 * share for name, share in shares.items()}
    )


def _causes(finding: Finding) -> dict[str, Any]:
    return {
        "dataset": finding.dataset.name,
        "of": finding.samples + len(finding.broken),
        "causes": Counter(one.cause for one in finding.broken).most_common(),
        "keys": [one.key for one in finding.broken[:10]],
        "more": max(0, len(finding.broken) - 10),
    }


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
