from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

import evaluation_sets as sets
from cliploom.errors import InputError
from cliploom.evaluation import classes, datasets
from cliploom.evaluation.suite import Entry

_NAMES = ["cat", "dog", "ox", "nobody"]


def test_recalls_and_confusions_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth, answers = random.integers(0, 3, 200), random.integers(0, 4, 200)
    found = classes.find(_NAMES, truth, answers, {})
    recalls = recall_score(truth, answers, labels=range(3), average=None)
    assert {one.name: one.right / one.samples for one in found.recalls} == pytest.approx(
        dict(zip(_NAMES, recalls, strict=False))
    )
    assert [one.right / one.samples for one in found.recalls] == pytest.approx(sorted(recalls)), "worst first"
    matrix = confusion_matrix(truth, answers, labels=range(4))
    np.fill_diagonal(matrix, 0)
    for one in found.confusions:
        assert one.samples == matrix[_NAMES.index(one.truth), _NAMES.index(one.answer)]
    assert found.confusions[0].samples == matrix.max()


def test_groups_have_their_own_accuracy_and_share_of_labels_that_are_nobodys() -> None:
    truth = np.array([0, 0, 1, 1, 2, 2])
    answers = np.array([0, 3, 1, 0, 3, 3])
    found = classes.find(_NAMES, truth, answers, {"age": ["young", "young", "old", "old", "", "old"]})
    assert [(one.attribute, one.value, one.samples) for one in found.groups] == [("age", "old", 3), ("age", "young", 2)]
    assert [one.accuracy.value for one in found.groups] == pytest.approx([1 / 3, 1 / 2])
    assert [one.nobodys.value for one in found.groups] == pytest.approx([1 / 3, 1 / 2])


def test_attributes_come_from_the_samples_json(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number, age in enumerate(("young", None, "old")):
        files |= {f"{number}.png": sets.encoded(sets.picture(number)), f"{number}.cls": b"0"}
        files[f"{number}.json"] = json.dumps({"age": age} if age else {}).encode()
    files["3.json"] = b"no json"
    root = sets.write_layout(tmp_path / "people", [files])
    entry = Entry.model_validate({"dataset": str(root), "tasks": ["zeroshot_classification"]})
    opened = datasets.open_dataset(entry, str(tmp_path))
    assert classes.attributes(opened, ["age"], ["2", "0", "1"]) == {"age": ["old", "young", ""]}
    assert classes.attributes(opened, [], ["2"]) == {}
    with pytest.raises(InputError, match=r"data set people: no KEY\.json has the attribute race"):
        classes.attributes(opened, ["race"], ["2"])
