"""What an evaluation leaves: results.json, results.csv, analyses.json, report.html, report.md, broken.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from cliploom import storage
from cliploom.evaluation import analyses, markdown
from cliploom.evaluation.gates import Verdict
from cliploom.evaluation.report import Champion, render
from cliploom.evaluation.results import to_csv, to_json
from cliploom.evaluation.run import Outcome

REPORT, RESULTS, BROKEN = "report.html", "results.json", "broken.jsonl"


def write(outcome: Outcome, verdict: Verdict, champion: Champion | None, folder: Path) -> None:
    """Write the files into the local `folder`. broken.jsonl has a line a sample that could not be measured."""
    broken = (one._asdict() for finding in outcome.findings for one in finding.broken)
    files = {
        RESULTS: to_json(outcome.rows),
        "results.csv": to_csv(outcome.rows),
        "analyses.json": analyses.to_json(outcome),
        REPORT: render(outcome, verdict, champion).encode(),
        "report.md": markdown.render(outcome, verdict, champion).encode(),
        BROKEN: "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in broken).encode(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)


def publish(folder: Path, uri: str) -> None:
    """Copy the files to storage; results.json comes last, so that where it is, all are."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == RESULTS):
        storage.upload(path, storage.join(uri, path.name))
