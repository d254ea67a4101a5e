"""Sources that are tables: parquet with bytes, paths or URIs, and COCO captions; streamed, never held whole."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom import storage
from cliploom.data import sources, tables
from cliploom.data.tables import Embedded, embedded
from cliploom.errors import InputError
from cliploom.settings.data import Prepare
from preparing import members, pairs, picture, quarantine, run, write


def colours(count: int) -> list[bytes]:
    return [picture(colour=f"#{i:02x}00ff") for i in range(count)]


@pytest.mark.parametrize("kind", ["bytes", "struct", "paths", "URIs"])
def test_parquet_with_images_or_where_they_are(tmp_path: Path, kind: str) -> None:
    images = colours(7)
    write(tmp_path / "raw", {f"img/{i}.png": image for i, image in enumerate(images)})
    column = {
        "bytes": pa.array(images, pa.large_binary()),
        "struct": pa.array([{"bytes": image, "path": "not looked at"} for image in images]),
        "paths": pa.array([f"img/{i}.png" for i in range(7)]),
        "URIs": pa.array([f"file://{tmp_path}/raw/img/{i}.png" for i in range(7)]),
    }[kind]
    captions = [["one", "two"], *([f"caption {i}"] for i in range(1, 7))]
    table = pa.table({"image": column, "caption": captions, "style": [f"s{i}" for i in range(7)]})
    pq.write_table(table, tmp_path / "raw" / "t.parquet", row_group_size=3)
    result = run(tmp_path / "raw" / "t.parquet", tmp_path / "out", shard_samples=2)
    assert pairs(result) == [(f"{i:09d}", images[i], captions[i]) for i in range(7)]
    assert result.shards == 4
    assert json.loads(members(tmp_path / "out" / "00001.tar")["000000003.json"]) == {"style": "s3"}


def test_metadata_of_parquet_are_what_json_has_words_for(tmp_path: Path) -> None:
    columns = {
        "image": colours(1),
        "caption": ["a"],
        "embedding": pa.array([b"bytes"]),
        "when": [datetime.datetime(2026, 11, 23, 12, 0)],
        "price": [decimal.Decimal("1.50")],
        "nothing": pa.array([None], pa.int64()),
        "nan": [math.nan],
        "nested": [{"a": [1, 2], "day": datetime.date(2026, 1, 2)}],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    run(tmp_path / "t.parquet", tmp_path / "out")
    assert json.loads(members(tmp_path / "out" / "00000.tar")["000000000.json"]) == {
        "when": "2026-11-23T12:00:00",
        "price": "1.50",
        "nothing": None,
        "nan": None,
        "nested": {"a": [1, 2], "day": "2026-01-02"},
    }


def test_rows_of_parquet_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    table = {"image": [picture(), None, b"torn", picture(), picture()], "caption": ["a", "b", "c", None, " "]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    result = run(tmp_path / "t.parquet", tmp_path / "out")
    assert result.samples == 1
    found = {fault["source"].rpartition(":")[2]: fault["cause"] for fault in quarantine(tmp_path / "out")}
    expected = ["no image file", "undecodable image", "row without caption", "empty caption"]
    assert found == {str(number): cause for number, cause in enumerate(expected, start=1)}


def test_a_changed_parquet_file_is_read_anew(tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        image = picture(colour=colour, size=(12, 8) if colour == "red" else (13, 8))
        pq.write_table(pa.table({"image": [image], "caption": ["a"]}), tmp_path / "t.parquet")
        [(_, found, _)] = pairs(run(tmp_path / "t.parquet", tmp_path / "out"))
        assert found == image


def test_several_files_are_one_source(tmp_path: Path) -> None:
    images = colours(5)
    for number, part in enumerate([images[:2], images[2:]]):
        table = pa.table({"image": part, "caption": [f"{number}"] * len(part)})
        pq.write_table(table, tmp_path / f"{number:02d}.parquet")
    result = run(tmp_path / "{00..01}.parquet", tmp_path / "out", shard_samples=3)  # one has rows of both
    assert [(image, texts) for _, image, texts in pairs(result)] == [
        (image, ["0" if i < 2 else "1"]) for i, image in enumerate(images)
    ]


@given(st.lists(st.integers(0, 39), max_size=20, unique=True).map(sorted), st.integers(1, 50))
def test_embedded_images_are_found_in_any_row_group(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], group: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "groups.parquet"
    pq.write_table(pa.table({"image": [str(i).encode() for i in range(40)]}), path, row_group_size=group)
    found = list(embedded([Embedded(str(path), "image", row, 0) for row in rows]))
    assert found == [str(row).encode() for row in rows]


COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 9, "file_name": "b.png", "height": 8},
        {"id": 4, "file_name": "a.png", "height": 9},
        {"id": 5, "file_name": "c.png"},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "caption": "an a"},
        {"id": 2, "image_id": 9, "caption": "a b"},
        {"id": 3, "image_id": 4, "caption": "the a"},
        {"id": 4, "image_id": 77, "caption": "of no image"},
    ],
}


def test_coco_captions(tmp_path: Path) -> None:
    images: dict[str, bytes | str] = {"val/a.png": picture(), "val/b.png": picture(colour="blue")}
    write(tmp_path, {**images, "annotations/captions_val.json": json.dumps(COCO)})
    source = tmp_path / "annotations" / "captions_val.json"
    result = run(source, tmp_path / "out", images=str(tmp_path / "val"))
    assert [(image, captions) for _, image, captions in pairs(result)] == [
        (images["val/b.png"], ["a b"]),
        (images["val/a.png"], ["an a", "the a"]),
    ]
    known = json.loads(members(tmp_path / "out" / "00000.tar")["000000001.json"])
    assert known == {"id": 4, "height": 9, "captions": ["an a", "the a"]}
    assert {fault["source"].rpartition("#")[2]: fault["cause"] for fault in quarantine(tmp_path / "out")} == {
        "5": "image without caption",
        "77": "caption without image",
    }


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"images": [{"id": 1}], "annotations": [{"id": 1}]}', '{"images": 1}']
)
def test_other_json_is_no_coco(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(
        InputError, match=r"prepare\.source: .*x\.json is no file of COCO captions, with images"
    ) as caught:
        run(tmp_path / "x.json", tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_wrong_parquet_is_answered_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"img": [b""], "caption": [""]}), tmp_path / "t.parquet")
    for name, message in {
        "no.parquet": r"prepare\.source: .*no\.parquet is no parquet file",
        "none.parquet": r"prepare\.source: there is no .*none\.parquet",
        "t.parquet": r"prepare\.image_column: .*t\.parquet has no column image, but caption",
    }.items():
        with pytest.raises(InputError, match=message):
            run(tmp_path / name, tmp_path / "out")
    (tmp_path / "x.json").write_text(json.dumps(COCO))
    with pytest.raises(InputError, match=r"prepare\.layout: .*x\.json has captions, and no classes"):
        run(tmp_path / "x.json", tmp_path / "out", layout="classification")


def large_csv(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("image,caption\n")
        file.writelines(f"{i}.png,{'x' * 1000}\n" for i in range(rows))


def large_parquet(path: Path, rows: int) -> None:
    schema = pa.schema({"image": pa.binary(), "caption": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 1000):
            cells = [bytes([i % 251]) * 1000 for i in range(start, start + 1000)]
            writer.write_table(pa.table({"image": cells, "caption": ["x" * 100] * 1000}, schema))


@pytest.mark.parametrize(("ending", "make"), [("csv", large_csv), ("parquet", large_parquet)])
@pytest.mark.parametrize("remote", [False, pytest.param(True, marks=pytest.mark.integration)])
def test_tables_are_never_held_whole(
    tmp_path: Path, request: pytest.FixtureRequest, ending: str, make: Callable[[Path, int], None], remote: bool
) -> None:
    path = tmp_path / f"t.{ending}"
    make(path, 30_000)
    uri = str(path)
    if remote:
        uri = f"{request.getfixturevalue('s3')()}/t.{ending}"
        storage.upload(path, uri)
        storage.size(uri)  # the client is made, which takes memory of its own
    tracemalloc.start()
    try:
        count = sum(1 for _ in sources.rows(Prepare(source=uri)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30_000
    assert peak < 10 * 2**20, "of 30 MB"


def test_lines_of_a_table_say_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("image\tcaption\nx\ty\n")
    found: list[Any] = list(tables.lines(str(tmp_path / "t.tsv"), "image"))
    assert found == [(f"{tmp_path}/t.tsv:2", {"image": "x", "caption": "y"})]
