from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluation_sets as sets
from cliploom.config import Evaluate, Gates
from cliploom.errors import InputError
from cliploom.evaluation import examples, gates, output, report, run, suite, summary
from cliploom.evaluation.model import Model

_SUITE = """
- {dataset: colours, tasks: [zeroshot_classification]}
- {dataset: colours, name: again, tasks: [zeroshot_classification], metrics: [acc1]}
- {dataset: pairs, tasks: [zeroshot_retrieval]}
"""


def _evaluate(folder: Path, model: Model, text: str = _SUITE, allowed: float = 0.0) -> run.Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(text)
    found = suite.load(str(folder / "small.yaml"))
    opened = run.open_suite(found, str(folder))
    settings = Evaluate(batch_size=5)
    return run.evaluate(found, opened, model, str(folder / "features"), settings, allowed)


@pytest.fixture
def outcome(folder: Path, model: Model, without_ray: None) -> run.Outcome:
    sets.classification(folder / "colours", samples=37, classes=6)
    sets.retrieval(folder / "pairs")
    return _evaluate(folder, model)


def test_rows_have_the_contracts_keys_and_every_metric(outcome: run.Outcome) -> None:
    assert {tuple(row) for row in outcome.rows} == {
        (
            "suite",
            "model",
            "version",
            "dataset",
            "task",
            "metric",
            "value",
            "low",
            "high",
            "chance",
            "samples",
            "seconds",
        )
    }
    assert {(row["suite"], row["model"], row["version"]) for row in outcome.rows} == {("small", "mu", 3)}
    assert [(row["dataset"], row["metric"]) for row in outcome.rows] == [
        ("colours", "acc1"),
        ("colours", "acc5"),
        ("colours", "mean_per_class_recall"),
        ("again", "acc1"),
        *[("pairs", f"{way}_retrieval_recall@{k}") for way in ("image", "text") for k in (1, 5, 10)],
    ]
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in outcome.rows)
    assert outcome.rows[0]["samples"] == 37


def test_a_shard_of_two_data_sets_is_computed_once(outcome: run.Outcome) -> None:
    assert outcome.computed.images == 37 + 14


def test_a_broken_sample_is_counted_and_the_rest_measured(folder: Path, model: Model, without_ray: None) -> None:
    root = sets.classification(folder / "colours", samples=20, shards=1)
    broken = {"z1.png": b"\x89PNG", "z1.cls": b"0", "z2.cls": b"1", "z3.png": sets.encoded(sets.picture(1))}
    files = {"a.png": sets.encoded(sets.picture(0)), "a.cls": b"99", **broken}
    sets.write_tar(root / "test/1.tar", files)
    (root / "test/nshards.txt").write_text("2")
    text = "- {dataset: colours, tasks: [zeroshot_classification], metrics: [acc1]}"
    found = _evaluate(folder, model, text, allowed=0.2).findings[0]
    assert [(one.key, one.cause) for one in found.broken] == [
        ("a", "label names no class"),
        ("z1", "undecodable image"),
        ("z2", "no image"),
        ("z3", "no label"),
    ]
    assert found.samples == 20
    with pytest.raises(InputError, match=r"data set colours: 4 of 24 samples can't be measured .* see .*/colours"):
        _evaluate(folder, model, text, allowed=0.1)


def test_a_task_needs_a_data_set_of_its_kind(folder: Path, model: Model) -> None:
    sets.retrieval(folder / "pairs")
    with pytest.raises(InputError, match="pairs is made for retrieval: zeroshot_classification can't be measured"):
        _evaluate(folder, model, "- {dataset: pairs, tasks: [zeroshot_classification]}")


def test_examples_show_what_was_measured(outcome: run.Outcome) -> None:
    finding = outcome.findings[0]
    assert len(finding.examples) == examples.PREDICTIONS
    for example in finding.examples:
        shares = [answer.share for answer in example.answers]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1
        assert [answer.right for answer in example.answers] == [
            answer.name == example.truth for answer in example.answers
        ]
        assert example.picture.startswith("data:image/webp;base64,")
    for example in outcome.findings[2].examples:
        number = re.search(r"picture (\d+)", example.truth)
        assert number is not None
        assert [a.right for a in example.answers] == [int(a.name) == int(number[1]) for a in example.answers]


def test_pictures_of_examples_are_those_of_their_class(folder: Path, model: Model, without_ray: None) -> None:
    """One plain colour a class, in several shards: the mean colour of a shown picture names its class."""
    names = list(sets.COLOURS)
    files = [
        {
            f"{n}.png": sets.encoded(Image.new("RGB", (20, 20), sets.COLOURS[names[n % 4]])),
            f"{n}.cls": str(n % 4).encode(),
        }
        for n in range(12)
    ]
    shards = [{k: v for sample in files[start::3] for k, v in sample.items()} for start in range(3)]
    sets.write_layout(folder / "plain", shards)
    found = _evaluate(folder, model, "- {dataset: plain, tasks: [zeroshot_classification]}").findings[0]
    for example in found.examples:
        data = base64.b64decode(example.picture.partition(",")[2])
        mean = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).mean((0, 1))
        nearest = min(names, key=lambda name: np.abs(mean - sets.COLOURS[name]).sum())
        assert nearest == example.truth


def test_files_and_report_hold_the_results(outcome: run.Outcome, tmp_path: Path) -> None:
    champion = report.Champion("mu version 2", [{**row, "value": 0.5, "low": 0.4, "high": 0.6} for row in outcome.rows])
    verdict = gates.judge(outcome.rows, Gates(), champion.rows)
    output.write(outcome, verdict, champion, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == outcome.rows
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert len(lines) == len(outcome.rows) + 1
    assert lines[0].startswith("suite,model,version,dataset,task,metric,value,low,high")
    page = (tmp_path / "report.html").read_text()
    for text in ("mu version 3", "mu version 2", "colours", "pairs", report.percent(outcome.rows[0]["value"]), "<svg"):
        assert text in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page), "the page must stand alone"
    assert not re.search(r"#0000[01]\w", page), "figures take their colours from the page's style"
    assert (tmp_path / "broken.jsonl").read_text() == ""


def test_names_of_a_data_set_are_text_not_markup(folder: Path, model: Model, without_ray: None, tmp_path: Path) -> None:
    root = sets.classification(folder / "colours")
    (root / "classnames.txt").write_text("<script>a\n<b>b\n[red]c\n&d\n")
    found = _evaluate(folder, model, "- {dataset: colours, tasks: [zeroshot_classification]}")
    page = report.render(found, gates.judge(found.rows, Gates()), None)
    assert "<script>a" not in page
    assert "&lt;script&gt;a" in page


def test_table_fits_a_terminal_of_80_columns(outcome: run.Outcome) -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary.table(outcome, report.Champion("mu version 2", outcome.rows)))
    text = console.export_text()
    for row in outcome.rows:
        assert row["metric"] in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.00025, "0.025 %"), (0.0099, "0.99 %"), (0.1234, "12.3 %"), (1, "100.0 %")]
)
def test_shares_are_shown_with_as_many_digits_as_tell_something(share: float, text: str) -> None:
    assert report.percent(share) == text
