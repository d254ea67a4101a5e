from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from cliploom.errors import InputError
from cliploom.evaluation import paper, suite

_REPOSITORY = Path(__file__).parents[2]


def _written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return str(path)


def test_suite_has_the_files_name_and_entries_those_of_their_folders(tmp_path: Path) -> None:
    path = _written(
        tmp_path,
        "- {dataset: sets/cats, tasks: [zeroshot_classification]}\n"
        "- {dataset: sets/cats, name: few, tasks: [zeroshot_classification], metrics: [acc1], split: train}\n",
    )
    found = suite.load(path)
    assert found.name == "small"
    assert [(entry.name, entry.split) for entry in found.entries] == [("cats", "test"), ("few", "train")]
    assert found.entries[0].metrics_of("zeroshot_classification") == ("acc1", "acc5", "mean_per_class_recall")
    assert found.entries[1].metrics_of("zeroshot_classification") == ("acc1",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds no list of data sets"),
        ("[", "can't be read"),
        ("- {dataset: a, tasks: [zeroshot_clasification]}", r"entry 1: .*did you mean zeroshot_classification\?"),
        ("- {dataset: a, task: [zeroshot_retrieval]}", r"unknown key task; did you mean tasks\?"),
        ("- {tasks: [zeroshot_retrieval]}", "entry 1: dataset is missing"),
        ("- {dataset: a, tasks: []}", "entry 1: tasks: "),
        (
            "- {dataset: a, tasks: [zeroshot_classification], metrics: [acc2]}",
            r"acc2 is no metric .*did you mean acc[15]\?",
        ),
        ("- {dataset: a, tasks: [zeroshot_retrieval], metrics: [acc1]}", "acc1 is no metric of zeroshot_retrieval"),
        ("- {dataset: a, name: x/y, tasks: [zeroshot_retrieval]}", "entry 1: name: "),
        ("- cats", "entry 1: "),
        (
            "- {dataset: a, paper: imagenet, tasks: [zeroshot_classification]}",
            r"entry 1: the paper has no results on imagenet; did you mean ImageNet\?",
        ),
        (
            "- {dataset: a, shift_of: b, tasks: [zeroshot_classification]}",
            "a is a shift of b, which the suite has not got",
        ),
        (
            "- {dataset: a, tasks: [zeroshot_retrieval]}\n- {dataset: b/a, tasks: [zeroshot_retrieval]}",
            "two entries are named a",
        ),
    ],
)
def test_wrong_suites_are_answered_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        suite.load(_written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_metrics_of_probes_have_names_of_their_own(tmp_path: Path) -> None:
    text = "- {dataset: a, tasks: [linear_probe, few_shot], metrics: [mean_per_class_recall, acc1]}"
    (entry,) = suite.load(_written(tmp_path, text)).entries
    assert entry.metrics_of("linear_probe") == ("lp_mean_per_class_recall", "lp_acc1")
    assert entry.metrics_of("few_shot") == tuple(f"fs{k}_mean_per_class_recall" for k in (1, 2, 4, 8, 16))


def test_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"evaluate.suite: there is no suite file nowhere.yaml"):
        suite.load("nowhere.yaml")


def test_the_demonstrations_suite_is_valid() -> None:
    found = suite.load(str(_REPOSITORY / "jobs/configs/suites/demo.yaml"))
    whole = suite.load(str(_REPOSITORY / "jobs/configs/suites/demo-full.yaml"))
    assert {entry.name for entry in whole.entries} == {entry.name for entry in found.entries}
    assert {"twemoji-seen", "twemoji-unseen", "twemoji-retrieval"} <= {entry.name for entry in found.entries}


def test_the_papers_suite_names_its_27_data_sets_with_their_metrics() -> None:
    entries = {entry.name: entry for entry in suite.load(str(_REPOSITORY / "jobs/configs/suites/clip.yaml")).entries}
    tables = set(paper.zeroshot()["RN50"])
    assert {entry.paper for entry in entries.values()} - {None} == tables | set(paper.beyond()["RN50"])
    first = {name: entry.metrics_of("linear_probe")[0] for name, entry in entries.items() if entry.paper in tables}
    special = {name: metric for name, metric in first.items() if metric != "lp_acc1"}
    assert special == dict.fromkeys(
        ("fgvc_aircraft", "oxford_pets", "caltech101", "flowers102"), "lp_mean_per_class_recall"
    ) | {
        "voc2007": "lp_mean_average_precision_11point",
        "kinetics700": "lp_mean_acc1_acc5",
        "hateful_memes": "lp_roc_auc",
    }
    assert sum(entry.shift_of == "imagenet" for entry in entries.values()) == 7
    assert {"flickr30k", "mscoco_captions", "rareact"} <= set(entries)


def test_the_papers_suite_has_the_sizes_of_its_table_9() -> None:
    entries = {entry.name: entry for entry in suite.load(str(_REPOSITORY / "jobs/configs/suites/clip.yaml")).entries}
    text = (_REPOSITORY / "jobs/configs/suites/clip.yaml").read_text()
    metrics = {"mean_per_class": "mean_per_class_recall", "11-point mAP": "mean_average_precision_11point"}
    with (Path(__file__).parent / "facts" / "datasets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 27
    for row in rows:
        entry = entries[row["id"]]
        sizes = {"classes": entry.classes, "train": entry.training_samples, "test": entry.samples}
        assert sizes == {name: int(row[name]) for name in sizes}, row["id"]
        if row["metric"] in metrics:
            assert entry.wanted("zeroshot_classification")[0] == metrics[row["metric"]]
        assert re.search(rf"- dataset: {row['id']}  # .*; {row['prompts']} prompts? a class", text), row["id"]
