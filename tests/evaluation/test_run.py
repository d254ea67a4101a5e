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
import protocols
from cliploom.errors import InputError
from cliploom.evaluation import examples, gates, output, report, run, suite, summary
from cliploom.evaluation.model import Model
from cliploom.settings.evaluation import Evaluate
from cliploom.settings.registry import Gates

_SUITE = """
- {dataset: colours, tasks: [zeroshot_classification]}
- {dataset: colours, name: again, tasks: [zeroshot_classification], metrics: [acc1]}
- {dataset: pairs, tasks: [zeroshot_retrieval]}
"""


def _evaluate(
    folder: Path, model: Model, text: str = _SUITE, allowed: float = 0.0, references: str | None = None
) -> run.Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(text)
    found = suite.load(str(folder / "small.yaml"))
    opened = run.open_suite(found, str(folder))
    settings = Evaluate(batch_size=5, references=references)
    return run.evaluate(found, opened, model, [], str(folder / "features"), settings, allowed)


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


def test_probes_shifts_and_overlap(folder: Path, model: Model, without_ray: None, tmp_path: Path) -> None:
    outcome = protocols.everything(folder, model)
    names = [(row["task"], row["metric"]) for row in outcome.rows if row["dataset"] == "colours"]
    assert names == [
        *[("zeroshot_classification", metric) for metric in ("acc1", "mean_per_class_recall")],
        *[("linear_probe", metric) for metric in ("lp_acc1", "lp_mean_per_class_recall")],
        *[("few_shot", f"fs{k}_acc1") for k in (1, 2, 4, 8, 16)],
    ]
    values = {row["metric"]: row["value"] for row in outcome.rows if row["dataset"] == "colours"}
    assert values["lp_acc1"] > 0.7, "a third of the labels tell nothing, the others the colour"
    assert outcome.findings[0].probe is not None
    assert outcome.findings[0].probe.training == 90
    assert outcome.findings[0].warnings == ["data set colours has 60 samples, the suite expects 61"]
    zero, probed = outcome.shifts
    assert (zero.classifier, probed.classifier) == ("zero-shot", "linear probe")
    assert zero.shift.value == next(row["value"] for row in outcome.rows if row["dataset"] == "shifted")
    assert zero.line is not None
    assert zero.effective is not None
    assert zero.effective.value == pytest.approx(zero.shift.value - zero.line.expected(zero.base.value))
    one = outcome.overlaps[0].overlap
    pngs = [n for n in range(30) if n % 3 == 0]  # the pictures that both have, losslessly
    assert {f"{n:04d}" for n in pngs} <= set(outcome.overlaps[0].duplicates)
    assert one.corrected == pytest.approx(min(1, 3 * (one.p or 0)))
    assert all(pair.picture.startswith("data:image") for pair in outcome.overlaps[0].pairs)
    output.write(outcome, gates.judge(outcome.rows, Gates()), None, tmp_path)
    found = json.loads((tmp_path / "analyses.json").read_text())
    assert found["robustness"][0]["effective"]["value"] == zero.effective.value
    assert found["few_shot"][0]["shots"][0]["examples"] == 1
    assert found["paper"][0]["zeroshot"]["RN50"] == pytest.approx(0.756)
    assert found["prompts"][0]["ensemble"] == values["acc1"]
    assert set(found["prompts"][0]["fewer"]) == {"name alone", "first prompt"}
    groups = found["classes"]["people"]["groups"]
    assert {(one["attribute"], one["value"]) for one in groups} == {("age", "old"), ("age", "young")}
    short = (tmp_path / "report.md").read_text()
    for text in ("## Robustness", "## Few-shot probes", "## Overlap", "## Prompts", "| colours | top 1 |"):
        assert text in short
    page = (tmp_path / "report.html").read_text()
    for text in (
        "Linear probe",
        "Few-shot",
        "effective robustness",
        "Overlap with the training data",
        "The paper",
        "By group",
    ):
        assert text in page


def test_a_shift_s_classes_must_be_the_other_set_s(folder: Path, model: Model) -> None:
    sets.classification(folder / "colours")
    sets.classification(folder / "shifted", classes=5)
    text = "- {dataset: colours, tasks: [zeroshot_classification]}\n"
    with pytest.raises(InputError, match=r"data set shifted: colours has no class colour 0; put the names"):
        _evaluate(folder, model, text + "- {dataset: shifted, tasks: [zeroshot_classification], shift_of: colours}")


def test_accuracies_on_all_classes_serve_a_shift_of_all_of_them_alone(
    folder: Path, model: Model, without_ray: None
) -> None:
    sets.classification(folder / "colours")
    sets.classification(folder / "same")
    sets.classification(folder / "fewer", classes=3)
    table = folder / "models.csv"
    table.write_text("model,colours,same,fewer\na,0.3,0.2,0.2\nb,0.5,0.4,0.4\nc,0.7,0.5,0.5\n")
    text = "- {dataset: colours, tasks: [zeroshot_classification]}\n"
    for name in ("same", "fewer"):
        text += f"- {{dataset: {name}, tasks: [zeroshot_classification], shift_of: colours}}\n"
    found = _evaluate(folder, model, text, references=str(table)).shifts
    assert [(one.shift_name, one.effective is not None) for one in found] == [("same", True), ("fewer", False)]


def test_a_first_metric_of_five_classes_needs_as_many(folder: Path, model: Model, without_ray: None) -> None:
    sets.classification(folder / "colours")
    task = "- {dataset: colours, tasks: [zeroshot_classification], metrics: "
    for metrics in ("[acc5]", "[mean_acc1_acc5, acc1]"):
        with pytest.raises(InputError, match=r"colours has 4 classes: \w*acc5 needs five"):
            _evaluate(folder, model, task + metrics + "}")
    assert [row["metric"] for row in _evaluate(folder, model, task + "[acc1, acc5]}").rows] == ["acc1"]


def _labelled(root: Path, split: str, labels: str) -> None:
    """A split of two classes, a sample a digit."""
    first = {"test": 0, "train": 1000, "val": 2000}[split]
    files: dict[str, bytes] = {}
    for number, label in enumerate(labels, first):
        files |= {f"{number}.png": sets.encoded(sets.picture(number)), f"{number}.cls": label.encode()}
    sets.write_layout(root, [files], names=["dull", "bright"], split=split)


@pytest.mark.parametrize(
    ("test", "train", "entry", "said"),
    [
        (
            "0000",
            "0101",
            "tasks: [zeroshot_classification], metrics: [roc_auc]",
            "roc_auc says nothing of the split test",
        ),
        (
            "0101",
            "00000001",
            "tasks: [linear_probe], metrics: [roc_auc]",
            "roc_auc can't choose the linear probe's penalty on a fifth of the split train",
        ),
        (
            "0101",
            "01010101",
            "tasks: [linear_probe], metrics: [roc_auc], validation: val",
            "roc_auc can't choose the linear probe's penalty on the split val",
        ),
        (
            "0101",
            "01",
            "tasks: [linear_probe], metrics: [acc1]",
            "acc1 can't choose the linear probe's penalty on a fifth of the split train, which has no samples",
        ),
        ("0101", "01", "tasks: [few_shot], metrics: [acc1]", "few_shot needs two samples or more of a class in train"),
        ("0101", "00001", "tasks: [few_shot], metrics: [roc_auc]", "and of both classes for roc_auc"),
    ],
)
def test_splits_that_a_metric_says_nothing_of_are_refused(
    folder: Path, model: Model, without_ray: None, test: str, train: str, entry: str, said: str
) -> None:
    for split, labels in (("test", test), ("train", train), ("val", "1111")):
        _labelled(folder / "faces", split, labels)
    with pytest.raises(InputError, match=f"data set faces: .*{said}") as error:
        _evaluate(folder, model, f"- {{dataset: faces, {entry}}}")
    assert "\n" not in str(error.value)


def test_few_shots_that_leave_one_class_to_validate_on_are_left_out(
    folder: Path, model: Model, without_ray: None
) -> None:
    _labelled(folder / "faces", "test", "01010101")
    _labelled(folder / "faces", "train", "000000000011")
    entry = "- {dataset: faces, tasks: [few_shot], metrics: [%s]}"
    names = [[row["metric"] for row in _evaluate(folder, model, entry % name).rows] for name in ("roc_auc", "acc1")]
    assert names == [["fs1_roc_auc"], [f"fs{k}_acc1" for k in (1, 2, 4, 8)]]


def test_a_multi_label_set_has_its_own_metric(folder: Path, model: Model, without_ray: None) -> None:
    def vector(n: int) -> bytes:
        data = io.BytesIO()
        np.save(data, np.array([n % 2, n % 3 == 0, n % 5 == 0], dtype=np.int64))
        return data.getvalue()

    for split, first in (("test", 0), ("train", 100)):
        numbers = range(first, first + 40)
        files = [{f"{n}.png": sets.encoded(sets.picture(n)), f"{n}.npy": vector(n)} for n in numbers]
        shard = {k: v for sample in files for k, v in sample.items()}
        sets.write_layout(folder / "shapes", [shard], "multilabel", ["a", "b", "c"], split=split)
    tasks = "- {dataset: shapes, tasks: [zeroshot_classification, linear_probe]"
    with pytest.raises(InputError, match=r"shapes is multilabel: its entry needs metrics: \[mean_average"):
        _evaluate(folder, model, tasks + "}")
    found = _evaluate(folder, model, tasks + ", metrics: [mean_average_precision_11point]}")
    assert [row["metric"] for row in found.rows] == [
        "mean_average_precision_11point",
        "lp_mean_average_precision_11point",
    ]
    assert all(
        answer.right == (answer.name in one.truth.split(", "))
        for one in found.findings[0].examples
        for answer in one.answers
    )
