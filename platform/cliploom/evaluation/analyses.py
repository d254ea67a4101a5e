"""What tasks say beside each other: zero-shot against probe, the examples that zero-shot is worth, the paper's models.

analyses.json holds all of it, and what robustness and overlap found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from cliploom.evaluation import fewshot, paper, shifts
from cliploom.evaluation.classes import ByClass
from cliploom.evaluation.contamination import Contamination
from cliploom.evaluation.fewshot import Shot
from cliploom.evaluation.findings import Finding
from cliploom.evaluation.intervals import Estimate
from cliploom.evaluation.paper import Relation
from cliploom.evaluation.robustness import Shift
from cliploom.evaluation.run import Outcome
from cliploom.evaluation.suite import Task

_LEAST = 3  # data sets that a correlation is taken of


class Comparison(NamedTuple):
    """Zero-shot beside the linear probe on one data set, in the entry's first metric."""

    dataset: str
    metric: str
    zeroshot: float
    probe: float


class Worth(NamedTuple):
    """Few-shot probes of a data set, and what zero-shot is worth in examples."""

    dataset: str
    metric: str
    shots: list[Shot]
    zeroshot: float | None
    examples: float | None  # a class; below 1 drawn out from the first shots; infinite where no probe reaches it


class Published(NamedTuple):
    """The paper's models on a data set of the suite, in the entry's first metric."""

    dataset: str
    zeroshot: dict[str, float]
    probe: dict[str, float]  # empty where it is not published


class Prompting(NamedTuple):
    """What prompts are worth on one data set, in the entry's first metric (3.1.4)."""

    dataset: str
    metric: str
    fewer: dict[str, Estimate]  # the class's name alone, the first prompt alone
    ensemble: float
    prompts: int

    @property
    def gain(self) -> float:
        """Of the ensemble over the class's name alone."""
        return self.ensemble - self.fewer["name alone"].value


def comparisons(outcome: Outcome) -> list[Comparison]:
    """Of each data set that has both tasks."""
    found = []
    for finding in outcome.findings:
        zero, probe = (_first(finding, task) for task in ("zeroshot_classification", "linear_probe"))
        if zero is not None and probe is not None:
            metric = finding.entry.wanted("linear_probe")[0]
            found.append(Comparison(finding.dataset.name, metric, zero, probe))
    return found


def relation(found: Sequence[Comparison]) -> Relation | None:
    """How zero-shot and probe go together, over three data sets or more that differ."""
    zero, probe = [one.zeroshot for one in found], [one.probe for one in found]
    if len(found) < _LEAST or len(set(zero)) == 1 or len(set(probe)) == 1:
        return None
    return paper.relate([one.dataset for one in found], zero, probe)


def worths(outcome: Outcome) -> list[Worth]:
    """Of each data set that has few-shot probes; the full probe is the last point, where there is one."""
    return [_worth(finding) for finding in outcome.findings if finding.shots]


def published(outcome: Outcome) -> list[Published]:
    """The published results on the data sets that the suite says are the paper's."""
    probe = paper.linear_probe()
    found = []
    for finding in outcome.findings:
        name = finding.entry.paper
        if name is not None:
            zero = next(table for table in (paper.zeroshot(), paper.beyond()) if name in table["RN50"])
            found.append(
                Published(
                    finding.dataset.name,
                    {model: row[name] for model, row in zero.items()},
                    {model: row[name] for model, row in probe.items() if name in row},
                )
            )
    return found


def promptings(outcome: Outcome) -> list[Prompting]:
    """Of each data set that has several prompts."""
    return [
        Prompting(
            finding.dataset.name,
            finding.entry.wanted("zeroshot_classification")[0],
            finding.prompting,
            float(_first(finding, "zeroshot_classification") or 0),
            len(finding.dataset.templates),
        )
        for finding in outcome.findings
        if finding.prompting
    ]


def to_json(outcome: Outcome) -> bytes:
    """All analyses, for programs."""
    found = comparisons(outcome)
    related = relation(found)
    tree = {
        "zeroshot_against_probe": {
            "datasets": [one._asdict() for one in found],
            "relation": related and related._asdict(),
        },
        "linear_probe": [
            {
                "dataset": finding.dataset.name,
                "l2": finding.probe.l2,
                "training": finding.probe.training,
                "validation": [{"l2": l2, "value": value} for l2, value in finding.probe.tried.items()],
            }
            for finding in outcome.findings
            if finding.probe
        ],
        "prompts": [_prompting(one) for one in promptings(outcome)],
        "classes": {finding.dataset.name: _classes(finding.classes) for finding in outcome.findings if finding.classes},
        "few_shot": [_few_shot(one) for one in worths(outcome)],
        "robustness": [_shift(one) for one in outcome.shifts],
        "mean_effective_robustness": {kind: one._asdict() for kind, one in shifts.means(outcome.shifts).items()},
        "overlap": [_overlap(one) for one in outcome.overlaps],
        "paper": [one._asdict() for one in published(outcome)],
        "warnings": [warning for finding in outcome.findings for warning in finding.warnings],
    }
    return (json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _first(finding: Finding, task: Task) -> float | None:
    measures = finding.measures.get(task)
    return measures[0].estimate.value if measures else None


def _worth(finding: Finding) -> Worth:
    (metric,) = finding.entry.wanted("few_shot")
    zero = next(
        (m.estimate.value for m in finding.measures.get("zeroshot_classification", ()) if m.metric == metric), None
    )
    points = [(float(shot.examples), shot.estimate.value) for shot in finding.shots]
    full = next(
        (m.estimate.value for m in finding.measures.get("linear_probe", ()) if m.metric == f"lp_{metric}"), None
    )
    if finding.probe and full is not None:
        examples = finding.probe.training / len(finding.dataset.classnames)
        points += [(examples, full)] if examples > points[-1][0] else []
    worth = fewshot.worth(zero, *zip(*points, strict=True)) if zero is not None and len(points) > 1 else None
    return Worth(finding.dataset.name, metric, finding.shots, zero, worth)


def _prompting(one: Prompting) -> dict[str, Any]:
    fewer = {name: estimate._asdict() for name, estimate in one.fewer.items()}
    return {**one._asdict(), "fewer": fewer, "gain": one.gain}


def _classes(found: ByClass) -> dict[str, Any]:
    groups = [
        {**group._asdict(), "accuracy": group.accuracy._asdict(), "nobodys": group.nobodys._asdict()}
        for group in found.groups
    ]
    return {
        "recalls": [one._asdict() for one in found.recalls],
        "confusions": [one._asdict() for one in found.confusions],
        "groups": groups,
    }


def _few_shot(one: Worth) -> dict[str, Any]:
    shots = [{**shot._asdict(), **shot.estimate._asdict()} for shot in one.shots]
    for shot in shots:
        del shot["estimate"]
    worth = one.examples if one.examples is not None and math.isfinite(one.examples) else None
    return {**one._asdict(), "shots": shots, "examples": worth}


def _shift(one: Shift) -> dict[str, Any]:
    line = one.line and {"slope": one.line.slope, "intercept": one.line.intercept, "models": len(one.line.points)}
    estimates = {"base": one.base, "shift": one.shift, "effective": one.effective}
    return {
        "base_name": one.base_name,
        "shift_name": one.shift_name,
        "classifier": one.classifier,
        **{name: estimate and estimate._asdict() for name, estimate in estimates.items()},
        "line": line,
    }


def _overlap(one: Contamination) -> dict[str, Any]:
    found = one.overlap
    return {
        "dataset": found.dataset,
        "samples": found.samples,
        "overlapping": found.overlapping,
        "all": found.all,
        "clean": found.clean,
        "overlap": found.overlap and found.overlap._asdict(),
        "p": found.p,
        "corrected": found.corrected,
        "keys": one.duplicates,
    }
