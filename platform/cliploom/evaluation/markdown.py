"""The results in short, as Markdown: for the model card, a pull request, a message."""

from __future__ import annotations

from collections.abc import Sequence

from cliploom.evaluation import analyses
from cliploom.evaluation.gates import Verdict
from cliploom.evaluation.report import Champion, examples, interval, label, percent, points
from cliploom.evaluation.results import lookup
from cliploom.evaluation.run import Outcome


def render(outcome: Outcome, verdict: Verdict, champion: Champion | None) -> str:
    """The page as Markdown: every row, and a table for each analysis that there is."""
    parts = [
        f"# {outcome.model.title} on {outcome.suite}",
        f"**{'Passed' if verdict.passed else 'Failed'}**: {'; '.join(verdict.reasons)}.",
        _results(outcome, champion),
        _prompts(outcome),
        _comparison(outcome),
        _few_shot(outcome),
        _robustness(outcome),
        _overlap(outcome),
        _broken(outcome),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(outcome: Outcome, champion: Champion | None) -> str:
    best = {one.dataset: max(one.zeroshot.items(), key=lambda item: item[1]) for one in analyses.published(outcome)}
    head = ["data set", "metric", "value", "95 % interval", "chance", "samples"]
    head += [champion.title] if champion else []
    head += ["best of the paper's"] if best else []
    rows, first = [], set[str]()
    for row in outcome.rows:
        cells = [
            row["dataset"],
            label(row["metric"]),
            f"**{percent(row['value'])}**",
            interval(row["low"], row["high"]),
        ]
        cells += [percent(row["chance"]), f"{row['samples']:,}"]
        if champion:
            known = lookup(champion.rows, row["dataset"], row["metric"])
            cells.append(percent(known["value"]) if known else "")
        if best:
            is_first = row["dataset"] in best and row["dataset"] not in first
            cells.append(f"{percent(best[row['dataset']][1])} ({best[row['dataset']][0]})" if is_first else "")
        first.add(row["dataset"])
        rows.append(cells)
    return _table(head, rows)


def _prompts(outcome: Outcome) -> str:
    rows = [
        [one.dataset, *(percent(fewer.value) for fewer in one.fewer.values()), percent(one.ensemble), points(one.gain)]
        for one in analyses.promptings(outcome)
    ]
    head = ["data set", "name alone", "first prompt", "ensemble", "ensemble less name, points"]
    return _section("Prompts", head, rows)


def _comparison(outcome: Outcome) -> str:
    found = analyses.comparisons(outcome)
    rows = [[one.dataset, label(one.metric), percent(one.zeroshot), percent(one.probe)] for one in found]
    section = _section("Zero-shot and linear probe", ["data set", "metric", "zero-shot", "probe"], rows)
    related = analyses.relation(found)
    return f"{section}\n\nPearson's correlation {related.pearson:.2f}." if related else section


def _few_shot(outcome: Outcome) -> str:
    found = analyses.worths(outcome)
    shots = [shot.examples for shot in max((one.shots for one in found), key=len, default=[])]
    rows = []
    for one in found:
        values = {shot.examples: percent(shot.estimate.value) for shot in one.shots}
        rows.append([one.dataset, *(values.get(count, "") for count in shots), examples(one.examples)])
    return _section("Few-shot probes", ["data set", *map(str, shots), "zero-shot is worth"], rows)


def _robustness(outcome: Outcome) -> str:
    rows = [
        [
            f"{one.shift_name} of {one.base_name}",
            one.classifier,
            percent(one.base.value),
            percent(one.shift.value),
            f"{points(one.effective.value)} ({points(one.effective.low)} to {points(one.effective.high)})"
            if one.effective
            else "",
        ]
        for one in outcome.shifts
    ]
    head = ["shift", "classifier", "on its classes of the set", "on the shift", "effective robustness, points"]
    return _section("Robustness", head, rows)


def _overlap(outcome: Outcome) -> str:
    rows = []
    for found in (one.overlap for one in outcome.overlaps):
        clean = "" if found.clean is None else percent(found.clean)
        gain = "" if found.gain is None else points(found.gain)
        p = "" if found.corrected is None else f"{found.corrected:.2g}"
        rows.append([found.dataset, f"{found.overlapping:,} of {found.samples:,}", percent(found.all), clean, gain, p])
    head = ["data set", "overlapping", "all", "clean", "all less clean, points", "p, corrected"]
    return _section("Overlap with the training data", head, rows)


def _broken(outcome: Outcome) -> str:
    broken = sum(len(finding.broken) for finding in outcome.findings)
    warnings = [warning for finding in outcome.findings for warning in finding.warnings]
    lines = [f"{broken} samples could not be measured: see broken.jsonl."] if broken else []
    return "\n".join(f"- {line}" for line in [*lines, *warnings])


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"## {title}\n\n{_table(head, rows)}" if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
