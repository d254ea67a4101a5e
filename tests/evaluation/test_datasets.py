from __future__ import annotations

from pathlib import Path

import pytest

import evaluation_sets as sets
from cliploom.errors import InputError
from cliploom.evaluation import datasets
from cliploom.evaluation.suite import Entry


def _opened(root: Path, tasks: tuple[str, ...] = ("zeroshot_classification",)) -> datasets.Dataset:
    return datasets.open_dataset(Entry.model_validate({"dataset": root.name, "tasks": tasks}), str(root.parent))


def test_a_classification_set_brings_its_classes_and_prompts(tmp_path: Path) -> None:
    found = _opened(sets.classification(tmp_path / "colours"))
    assert (found.name, found.kind) == ("colours", "classification")
    assert found.classnames == tuple(sets.COLOURS)
    assert found.templates == sets.TEMPLATES
    assert [shard.uri for shard in found.shards] == [str(tmp_path / "colours/test" / f"{n}.tar") for n in (0, 1)]


def test_samples_come_in_order_with_what_they_have(tmp_path: Path) -> None:
    files = {
        "a/x.y.jpg": b"key ends at the first dot: no image",
        "b.PNG": b"image",
        "b.cls": b"3",
        "b.json": b"{}",
        "c.txt": b"one\ntwo",
        "c.jpeg": b"picture",
    }
    sets.write_tar(tmp_path / "0.tar", files)
    assert list(datasets.samples(str(tmp_path / "0.tar"))) == [
        datasets.Sample("a/x", None, None, None),
        datasets.Sample("b", b"image", b"3", None, facts=b"{}"),
        datasets.Sample("c", b"picture", None, b"one\ntwo"),
    ]


def test_images_are_fetched_by_number(tmp_path: Path) -> None:
    dataset = _opened(sets.classification(tmp_path / "colours", samples=9, shards=1))
    found = datasets.fetch(dataset.shards[0], [7, 2])
    assert {n: sample.image for n, sample in found.items()} == {
        n: sets.encoded(sets.picture(n), ("png", "jpg", "webp")[n % 3]) for n in (2, 7)
    }


def test_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    first, second = (_opened(sets.classification(tmp_path / name)) for name in ("one", "two"))
    assert [shard.digest for shard in first.shards] == [shard.digest for shard in second.shards]
    sets.classification(tmp_path / "two", samples=25)
    assert _opened(tmp_path / "two").shards[0].digest != first.shards[0].digest


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("test/nshards.txt", None, r"there is no .*colours/test/nshards.txt; check the suite's path and split"),
        ("test/nshards.txt", "two", "says 'two'; it should be the number of shards"),
        ("test/nshards.txt", "3", r"the shard .*2.tar is missing: .* says there are 3"),
        ("dataset_type.txt", "captions", "says 'captions'; known are classification, multilabel, retrieval"),
        ("classnames.txt", None, "there is no .*classnames.txt: a classification data set needs it"),
        ("classnames.txt", "\n", "is empty"),
        ("classnames.txt", "cat\n\ndog\n", "classnames.txt has an empty line 2"),
        ("zeroshot_classification_templates.txt", "a photo", r"'a photo' has no \{c\}"),
    ],
)
def test_a_layout_with_a_fault_is_answered_in_one_line(
    tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    root = sets.classification(tmp_path / "colours")
    if text is None:
        (root / file).unlink()
    else:
        (root / file).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        _opened(root)
    assert "\n" not in str(error.value)


def test_a_set_without_type_is_classification(tmp_path: Path) -> None:
    root = sets.classification(tmp_path / "colours")
    (root / "dataset_type.txt").unlink()
    assert _opened(root).kind == "classification"


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    path = sets.classification(tmp_path / "colours") / "test/0.tar"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "garbage":
        path.write_bytes(b"x" * 4096)
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"the shard .*0.tar is (damaged|gone)"):
        list(datasets.samples(str(path)))
