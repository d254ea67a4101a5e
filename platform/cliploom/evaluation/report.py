"""The report: one HTML file that stands alone, readable by who has never seen the model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cliploom.evaluation import analyses, figures, shifts
from cliploom.evaluation.analyses import Published
from cliploom.evaluation.figures import hits_at_k
from cliploom.evaluation.findings import Finding
from cliploom.evaluation.gates import Verdict
from cliploom.evaluation.results import AnyRow, Row, lookup
from cliploom.evaluation.run import Outcome
from cliploom.evaluation.suite import Task
from cliploom.pages import templates

_TASKS: dict[Task, tuple[str, str]] = {
    "zeroshot_classification": (
        "Zero-shot classification",
        "How often the right answer is among the first k. Dashed: answers at random.",
    ),
    "linear_probe": ("Linear probe", ""),
    "few_shot": (
        "Few-shot probes",
        "Probes that see a few examples a class, the mean of several draws. Dashed: zero-shot, on no example at all.",
    ),
    "zeroshot_retrieval": (
        "Retrieval",
        "How often the right answer is among the first k. Dashed: answers at random.",
    ),
}
_LABELS = {
    "acc1": "top 1",
    "acc5": "top 5",
    "mean_acc1_acc5": "mean of top 1 and top 5",
    "mean_per_class_recall": "mean per class",
    "roc_auc": "area under the ROC curve",
    "mean_average_precision_11point": "11-point mean average precision",
    "mean_average_precision": "mean average precision",
}


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
    published: tuple[
        tuple[str, float], ...
    ]  # the weakest and the strongest of the paper's models, where it has the set
    position: Mapping[str, float]  # of value, low, high, chance and champion on a bar, 0-100


def render(outcome: Outcome, verdict: Verdict, champion: Champion | None) -> str:
    """The page as HTML."""
    environment = templates("cliploom.evaluation")
    environment.globals.update(interval=interval)
    environment.filters.update(
        percent=percent, points=points, times=_times, label=label, seconds=_seconds, examples=examples
    )
    compared, published = analyses.comparisons(outcome), analyses.published(outcome)
    return environment.get_template("report.html.j2").render(
        outcome=outcome,
        model=outcome.model,
        verdict=verdict,
        champion=champion,
        when=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        cards=[_card(outcome, finding, champion, published) for finding in outcome.findings if finding.measures],
        sections=_sections(outcome, champion),
        classified=[finding for finding in outcome.findings if finding.dataset.kind != "retrieval"],
        retrieved=[finding for finding in outcome.findings if finding.dataset.kind == "retrieval"],
        relation=analyses.relation(compared),
        scatter=figures.zeroshot_against_probe(compared) if compared else "",
        worths=analyses.worths(outcome),
        robustness=figures.robustness(outcome.shifts) if outcome.shifts else "",
        means=shifts.means(outcome.shifts),
        published=published,
        promptings=analyses.promptings(outcome),
        by_class=[finding for finding in outcome.findings if finding.classes],
        broken=[_causes(finding) for finding in outcome.findings if finding.broken],
        warnings=[warning for finding in outcome.findings for warning in finding.warnings],
        computed_seconds=sum(finding.model_seconds for finding in outcome.findings),
    )


def percent(share: float) -> str:
    """A share as people read it, with as many digits as tell something: 42.5 %, 0.03 %."""
    return f"{_shown(share)} %"


def interval(low: float, high: float) -> str:
    """The ends of an interval as `percent` gives them, with one percent sign."""
    return f"{_shown(low)} – {_shown(high)} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def examples(number: float | None) -> str:
    """Examples a class, as people read them."""
    if number is None:
        return "–"
    return "more than there are" if math.isinf(number) else f"{number:.1f}" if number < 100 else f"{number:,.0f}"


def _times(factor: float) -> str:
    return f"{factor:,.0f} ×" if factor >= 10 else f"{factor:.1f} ×"


def label(metric: str) -> str:
    """A metric's name in words."""
    way, recall, k = metric.partition("_retrieval_recall@")
    if recall:
        return f"{'image of a caption' if way == 'image' else 'caption of an image'}, top {k}"
    probe, base = re.fullmatch(r"(lp_|fs\d+_)?(.*)", metric).groups()  # type: ignore[union-attr]
    words = _LABELS.get(base, base)
    if probe and probe.startswith("fs"):
        return f"{words}, {probe[2:-1]} a class"
    return f"probe, {words}" if probe else words


def _shown(share: float) -> str:
    return f"{100 * share:.2g}" if share < 0.01 else f"{100 * share:.1f}"


def _sections(outcome: Outcome, champion: Champion | None) -> list[dict[str, Any]]:
    """A table and a figure for each task that the suite has."""
    sections = []
    for task, (title, note) in _TASKS.items():
        measured = [finding for finding in outcome.findings if finding.measures.get(task)]
        if measured:
            curves = [curve for finding in measured for curve in finding.curves]
            figure = hits_at_k(curves) if curves and task.startswith("zeroshot") else ""
            if task == "few_shot":
                figure = figures.few_shot(analyses.worths(outcome))
            table = _table(outcome, task, measured, champion)
            sections.append({"title": title, "note": note, "figure": figure, "task": task, **table})
    return sections


def _table(outcome: Outcome, task: Task, measured: Sequence[Finding], champion: Champion | None) -> dict[str, Any]:
    rows = [row for row in outcome.rows if row["task"] == task]
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
        for finding in measured
    ]
    return {"metrics": metrics, "table": table}


def _card(outcome: Outcome, finding: Finding, champion: Champion | None, published: Sequence[Published]) -> Card:
    """The first metric of a data set."""
    row = next(row for row in outcome.rows if row["dataset"] == finding.dataset.name)
    best = lookup(champion.rows, row["dataset"], row["metric"]) if champion else None
    shares = {name: row[name] for name in ("value", "low", "high", "chance")}
    if best:
        shares["champion"] = best["value"]
    known = next((one.zeroshot for one in published if one.dataset == finding.dataset.name), {})
    ends = (min(known, key=lambda model: known[model]), max(known, key=lambda model: known[model])) if known else ()
    for name, model in zip(("weakest", "strongest"), ends, strict=False):
        shares[name] = known[model]
    return Card(
        finding.dataset.name,
        row,
        label(row["metric"]),
        best,
        tuple((model, known[model]) for model in ends),
        {name: 100 * share for name, share in shares.items()},
    )


def _causes(finding: Finding) -> dict[str, Any]:
    return {
        "dataset": finding.dataset.name,
        "of": finding.looked_at,
        "causes": Counter(one.cause for one in finding.broken).most_common(),
        "keys": [one.key for one in finding.broken[:10]],
        "more": max(0, len(finding.broken) - 10),
    }


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
