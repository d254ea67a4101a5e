from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cliploom.config import Config
from cliploom.data import manifest, packing
from cliploom.data.indexing import make_index
from cliploom.data.prepare import Result, prepare
from cliploom.errors import InputError
from cliploom.settings.data import Index, Prepare
from preparing import members, pairs, picture, quarantine, run, serially, write


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder with 10 pairs."""
    files: dict[str, bytes | str] = {f"{i}.png": picture(colour=f"#{i:02x}0000") for i in range(10)}
    return write(tmp_path / "raw", files | {f"{i}.txt": f"caption {i}\n" for i in range(10)})


def test_folder_of_images_with_captions_beside_them(tmp_path: Path) -> None:
    images: dict[str, bytes | str] = {
        "b.jpg": picture("JPEG"),
        "deep/a.png": picture(),
        "c.webp": picture("WEBP"),
        "d.JPEG": picture("JPEG"),
    }
    captions: dict[str, bytes | str] = {"b.txt": "\ufefftwo  words\n", "deep/a.txt": "a", "c.txt": "größer"}
    captions["d.txt"] = "d"
    result = run(write(tmp_path / "raw", images | captions), tmp_path / "out")
    assert sorted(pairs(result), key=lambda pair: pair[2]) == sorted(
        [
            ("000000000", images["b.jpg"], ["two words"]),
            ("000000001", images["c.webp"], ["größer"]),
            ("000000002", images["d.JPEG"], ["d"]),
            ("000000003", images["deep/a.png"], ["a"]),
        ],
        key=lambda pair: pair[2],
    )
    assert result[1:] == (1, 4, Counter())


TABLES = {
    "t.csv": 'image,caption,style\nimg/a.png,"one, and\nmore",x\nimg/b.png,two,y\n',
    "t.tsv": "image\tcaption\tstyle\nimg/a.png\tone, and more\tx\nimg/b.png\ttwo\ty\n",
    "t.jsonl": '{"image": "img/a.png", "caption": "one, and more", "style": "x"}\n'
    '{"image": "img/b.png", "caption": ["two"], "style": "y"}\n',
    "bom.csv": '\ufeffimage,caption,style\nimg/a.png,"one, and more",x\nimg/b.png,two,y\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path: Path, name: str) -> None:
    images: dict[str, bytes | str] = {"img/a.png": picture(), "img/b.png": picture(colour="blue")}
    write(tmp_path / "raw", images | {name: TABLES[name]})
    result = run(tmp_path / "raw" / name, tmp_path / "out")
    assert pairs(result) == [
        ("000000000", images["img/a.png"], ["one, and more"]),
        ("000000001", images["img/b.png"], ["two"]),
    ]
    assert json.loads(members(tmp_path / "out" / "00000.tar")["000000001.json"]) == {"style": "y"}


def test_several_captions(tmp_path: Path) -> None:
    rows = '{"file": "a.png", "texts": ["one", " ", "two"]}\n{"file": "a.png", "texts": "three"}\n'
    write(tmp_path / "raw", {"a.png": picture(), "t.jsonl": rows})
    result = run(tmp_path / "raw" / "t.jsonl", tmp_path / "out", image_column="file", caption_column="texts")
    assert [captions for *_, captions in pairs(result)] == [["one", "two"], ["three"]]


def test_what_cannot_be_used_is_named_by_cause_and_the_rest_is_kept(tmp_path: Path) -> None:
    rows = [
        '{"image": "good.png", "caption": "good"}',
        '{"image": "torn.png", "caption": "torn"}',
        '{"image": "none.png", "caption": "none"}',
        '{"image": "good.png", "caption": "  "}',
        '{"image": "good.png", "caption": null}',
        '{"image": "good.png"}',
        '{"caption": "no image"}',
        "[]",
        '{"image": "good.png", "caption"',
    ]
    lines = "\n".join(rows).encode() + b'\n{"image": "good.png", "caption": "\xff"}\n'
    write(tmp_path / "raw", {"t.jsonl": lines, "good.png": picture(), "torn.png": picture(size=(90, 90))[:60]})
    result = run(tmp_path / "raw" / "t.jsonl", tmp_path / "out", shard_samples=2)
    assert [captions for *_, captions in pairs(result)] == [["good"]]
    causes = ["undecodable image", "no image file", "empty caption", *["row without caption"] * 2, "row without image"]
    causes += ["line is no row", "line is no row", "caption is not UTF-8 text"]
    found = {int(fault["source"].rpartition(":")[2]): fault["cause"] for fault in quarantine(tmp_path / "out")}
    assert found == dict(enumerate(causes, start=2))
    assert result.faults == Counter(causes)
    assert result.left_out().startswith("2 x ")


def test_what_utf_8_cannot_encode_costs_its_row_at_most(tmp_path: Path) -> None:
    lines = [
        r'{"image": "a.png", "caption": "cut \ud83d"}',
        r'{"image": "\ud83d.png", "caption": "no such name"}',
        r'{"image": "a.png", "caption": "kept", "by": "\ud83d x"}',
    ]
    table = b"image,caption,by\na.png,kept,caf\xe9\n"
    write(tmp_path / "raw", {"t.jsonl": "\n".join(lines), "t.csv": table, "a.png": picture()})
    result = run(tmp_path / "raw" / "t.jsonl", tmp_path / "out")
    assert result.faults == {"caption is not UTF-8 text": 1, "no image file": 1}
    assert json.loads(members(tmp_path / "out" / "00000.tar")["000000002.json"]) == {"by": "? x"}
    assert run(tmp_path / "raw" / "t.jsonl", tmp_path / "out") == result
    run(tmp_path / "raw" / "t.csv", tmp_path / "out")
    assert json.loads(members(tmp_path / "out" / "00000.tar")["000000000.json"]) == {"by": "caf?"}


def test_a_class_that_utf_8_cannot_encode_is_none(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"t.csv": b"image,class\na.png,caf\xe9\na.png,dog\n", "a.png": picture()})
    result = run(tmp_path / "raw" / "t.csv", tmp_path / "set", layout="classification")
    assert (result.samples, result.faults) == (1, {"class is not UTF-8 text": 1})
    assert (tmp_path / "set" / "classnames.txt").read_text() == "dog\n"


def test_partners_that_are_missing_in_a_folder(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "a.png": picture(),
        "a.txt": "a",
        "b.png": picture(),
        "c.txt": "c",
        "notes.md": "not looked at",
    }
    result = run(write(tmp_path / "raw", files), tmp_path / "out")
    assert result.faults == {"image without caption": 1, "caption without image": 1}
    assert [fault["source"].rpartition("/")[2] for fault in quarantine(tmp_path / "out")] == ["b.png", "c.txt"]


def test_images_are_made_smaller_at_rest_never_larger(tmp_path: Path) -> None:
    sizes = {"tall": (90, 200), "wide": (200, 100), "small": (20, 30)}
    files: dict[str, bytes | str] = {f"{name}.png": picture(size=size) for name, size in sizes.items()}
    result = run(write(tmp_path / "raw", files | {f"{name}.txt": name for name in sizes}), tmp_path / "out", resize=50)
    found = {captions[0]: Image.open(io.BytesIO(image)) for _, image, captions in pairs(result)}
    assert {name: (image.size, image.format) for name, image in found.items()} == {
        "tall": ((50, 111), "JPEG"),
        "wide": ((100, 50), "JPEG"),
        "small": ((20, 30), "PNG"),
    }


def test_formats_that_shards_do_not_hold_are_encoded_without_loss(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"a.bmp": picture("BMP", colour="#123456"), "a.txt": "a"})
    [(_, image, _)] = pairs(run(tmp_path / "raw", tmp_path / "out"))
    assert Image.open(io.BytesIO(image)).format == "PNG"
    assert Image.open(io.BytesIO(image)).getpixel((0, 0)) == (0x12, 0x34, 0x56)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_run_again_it_makes_only_what_is_missing(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    run(many, output, shard_samples=3)
    whole = snapshot(output)
    made: list[str] = []
    make = packing._make
    monkeypatch.setattr(packing, "_make", lambda plan: made.append(plan.uri[-9:]) or make(plan))  # type: ignore[func-returns-value]
    (output / "00001.tar").unlink()
    (output / ".prepare" / "00002.json").write_text('{"fingerprint"')
    (output / "manifest.parquet").unlink()
    run(many, output, shard_samples=3)
    assert made == ["00001.tar", "00002.tar"]
    assert snapshot(output) == whole


def test_the_shards_are_a_function_of_the_source_alone(many: Path, tmp_path: Path) -> None:
    first = manifest.load(run(many, tmp_path / "one", shard_samples=4).uri)
    second = manifest.load(run(shutil.copytree(many, tmp_path / "copy"), tmp_path / "two", shard_samples=4).uri)
    assert [shard.samples for shard in first.shards] == [4, 4, 2]
    assert first.fingerprint == second.fingerprint


def test_a_changed_source_makes_the_shards_anew_and_leaves_no_old_one(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(many, output, shard_samples=2)
    (many / "0.txt").write_text("another caption")
    for i in range(3, 10):
        (many / f"{i}.png").unlink()
        (many / f"{i}.txt").unlink()
    result = run(many, output, shard_samples=2)
    assert [captions[0] for *_, captions in pairs(result)] == ["another caption", "caption 1", "caption 2"]
    assert sorted(path.name for path in output.glob("*.tar")) == ["00000.tar", "00001.tar"]
    assert result.samples == 3


def test_a_shard_of_which_nothing_is_left_is_not_in_the_manifest(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"a.png": b"no image", "a.txt": "a", "b.png": picture(), "b.txt": "b"}
    result = run(write(tmp_path / "raw", files), tmp_path / "out", shard_samples=1)
    assert [shard.samples for shard in manifest.load(result.uri).shards] == [1]


def test_image_folder_becomes_a_classification_set(tmp_path: Path) -> None:
    names = ["tabby cat", "dog", "tabby cat"]
    files: dict[str, bytes | str] = {f"{name}/{i}.png": picture(colour=f"#{i:02x}0000") for i, name in enumerate(names)}
    result = run(write(tmp_path / "raw", files), tmp_path / "set", layout="classification", shard_samples=2)
    root = tmp_path / "set"
    assert (root / "classnames.txt").read_text() == "dog\ntabby cat\n"
    assert (root / "zeroshot_classification_templates.txt").read_text() == "a photo of a {c}.\n"
    assert (root / "dataset_type.txt").read_text().strip() == "classification"
    assert (root / "test" / "nshards.txt").read_text() == "2"
    found = members(root / "test" / "0.tar") | members(root / "test" / "1.tar")
    labels = {found[f"{i:09d}.png"]: found[f"{i:09d}.cls"] for i in range(3)}
    assert labels == {files["dog/1.png"]: b"0", files["tabby cat/0.png"]: b"1", files["tabby cat/2.png"]: b"1"}
    assert result == (str(root), 2, 3, Counter())


def test_class_column_with_names_or_numbers_of_given_classes(tmp_path: Path) -> None:
    table = "image,class\na.png,dog\na.png,1\na.png,7\na.png,fish\n"
    lists: dict[str, bytes | str] = {"names": "\ufeffcat\ndog\n", "prompts": "art of {c}\n"}
    write(tmp_path / "raw", lists | {"t.csv": table, "a.png": picture()})
    settings = {"layout": "classification", "split": "train", "classnames": str(tmp_path / "raw" / "names")}
    settings["templates"] = str(tmp_path / "raw" / "prompts")
    result = run(tmp_path / "raw" / "t.csv", tmp_path / "set", **settings)
    assert [value for name, value in members(tmp_path / "set" / "train" / "0.tar").items() if "cls" in name] == [
        b"1"
    ] * 2
    assert result.faults == {"unknown class": 2}
    assert (tmp_path / "set" / "classnames.txt").read_text() == "cat\ndog\n"
    assert (tmp_path / "set" / "zeroshot_classification_templates.txt").read_text() == "art of {c}\n"


def test_splits_of_a_set_have_the_same_classes(tmp_path: Path) -> None:
    run(
        write(tmp_path / "a", {"cat/1.png": picture(), "dog/1.png": picture()}),
        tmp_path / "set",
        layout="classification",
    )
    with pytest.raises(InputError, match=r"prepare\.classnames: .*classnames\.txt has other names"):
        run(write(tmp_path / "b", {"dog/1.png": picture()}), tmp_path / "set", layout="classification", split="train")


def test_retrieval_set_has_a_caption_a_line(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "a.png": picture(),
        "a.txt": "one\ntwo\n",
        "t.jsonl": '{"image": "a.png", "caption": ["x", "y z"]}\n',
    }
    write(tmp_path / "raw", files)
    run(tmp_path / "raw", tmp_path / "folder", layout="retrieval")
    run(tmp_path / "raw" / "t.jsonl", tmp_path / "table", layout="retrieval")
    assert members(tmp_path / "folder" / "test" / "0.tar")["000000000.txt"] == b"one\ntwo"
    assert members(tmp_path / "table" / "test" / "0.tar")["000000000.txt"] == b"x\ny z"
    assert (tmp_path / "table" / "dataset_type.txt").read_text().strip() == "retrieval"


def test_wrong_input_is_answered_in_one_line(tmp_path: Path) -> None:
    write(
        tmp_path / "raw", {"t.csv": "image,captions\na.png,x\n", "bad.jsonl": '{"image": "no.png", "caption": "x"}\n'}
    )
    cases: dict[str, tuple[str, dict[str, str]]] = {
        r"prepare\.source: there is no .*none\.csv": ("none.csv", {}),
        r"prepare\.source: .*none is no folder with files": ("none", {}),
        r"prepare\.source: .*raw holds no images": ("", {}),
        r"prepare\.caption_column: .*t\.csv has no column caption, .*did you mean captions\?": ("t.csv", {}),
        r"prepare\.image_column: .*t\.csv has no column img": ("t.csv", {"image_column": "img"}),
        r"nothing in .*bad\.jsonl can be used: see .*quarantine\.jsonl": ("bad.jsonl", {}),
        r"prepare\.classnames: there is no file .*classes": (
            "t.csv",
            {"layout": "classification", "classnames": str(tmp_path / "classes")},
        ),
    }
    for message, (name, settings) in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            run(tmp_path / "raw" / name, tmp_path / "out", **settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"prepare\.output is not set"):
        prepare(Config(prepare=Prepare(source="x")), serially)


def test_index_makes_the_manifest_of_shards_that_exist(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    prepared = manifest.load(run(many, output, shard_samples=4).uri)
    content = (output / "00002.tar").read_bytes()
    (output / "00002.tar").write_bytes(content[: len(content) // 4])
    (output / "00003.tar").write_bytes(b"")

    def index(**settings: Any) -> Result:
        return make_index(Config(index=Index(**settings)), serially)

    result = index(shards=str(output), output=str(tmp_path / "index"), content_digest=True)
    made = manifest.load(result.uri)
    assert made.shards[:2] == prepared.shards[:2]
    assert made.index(1).keys == prepared.index(1).keys
    assert result.faults == {"truncated or damaged tar": 2}
    assert [Path(fault["source"]).name for fault in quarantine(tmp_path / "index")] == ["00002.tar", "00003.tar"]
    made.check()
    by_pattern = index(shards=str(output / "{00000..00001}.tar"))
    assert by_pattern.uri == str(output / "manifest.parquet")
    assert by_pattern.samples == 8
    with pytest.raises(InputError, match=r"index\.shards: there are no \.tar files below .*none"):
        index(shards=str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"there is no shard .*00009\.tar"):
        index(shards=str(output / "00009.tar"))
    with pytest.raises(InputError, match=r"index\.shards: no image with a caption"):
        index(shards=str(output / "00003.tar"))
