from __future__ import annotations

from pathlib import Path

import pytest

from cliploom.errors import InputError
from cliploom.evaluation import suite

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
            "- {dataset: a, tasks: [zeroshot_retrieval]}\n- {dataset: b/a, tasks: [zeroshot_retrieval]}",
            "two entries are named a",
        ),
    ],
)
def test_wrong_suites_are_answered_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        suite.load(_written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"evaluate.suite: there is no suite file nowhere.yaml"):
        suite.load("nowhere.yaml")


def test_the_demonstrations_suite_is_valid() -> None:
    found = suite.load(str(_REPOSITORY / "jobs/configs/suites/demo.yaml"))
    assert {"twemoji-seen", "twemoji-unseen", "twemoji-retrieval"} <= {entry.name for entry in found.entries}
