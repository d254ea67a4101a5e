from __future__ import annotations

import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cliploom.data import manifest, shards
from cliploom.data.shards import Shard, ShardIndex, ShardWriter
from cliploom.errors import InputError


def make(folder: Path, counts: list[int], content: bytes = b"image") -> list[tuple[Shard, ShardIndex]]:
    rows = []
    for number, count in enumerate(counts):
        with ShardWriter(str(folder / f"{number:05d}.tar")) as writer:
            for i in range(count):
                writer.add(f"{number}-{i}", content * i, "png", [f"caption {i}"])
        rows.append((writer.shard, writer.index))
    return rows


def test_manifest_gives_back_shards_and_indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_GROUP_SAMPLES", 8)  # so that row groups hold several shards, and one
    rows = make(tmp_path, [3, 4, 10, 1, 2])
    manifest.write(str(tmp_path / "manifest.parquet"), rows)
    assert pq.ParquetFile(tmp_path / "manifest.parquet").num_row_groups == 3
    for uri in (str(tmp_path), str(tmp_path / "manifest.parquet")):
        loaded = pickle.loads(pickle.dumps(manifest.load(uri)))
        assert loaded.shards == [shard for shard, _ in rows]
        assert loaded.samples == 20
        for number in (4, 0, 2, 1, 3):
            index = loaded.index(number)
            assert index.keys == rows[number][1].keys
            for name in shards.SPANS:
                np.testing.assert_array_equal(getattr(index, name), getattr(rows[number][1], name))
        loaded.check()


def test_pattern_of_shards_is_indexed_on_the_fly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = make(tmp_path, [2, 3])
    (tmp_path / "00002.tar").write_bytes((tmp_path / "00001.tar").read_bytes()[:4000])
    with caplog.at_level(logging.WARNING):
        found = manifest.load(str(tmp_path / "{00000..00002}.tar"))
    assert [shard.samples for shard in found.shards[:2]] == [2, 3]
    assert pickle.loads(pickle.dumps(found)).index(1).keys == rows[1][1].keys
    assert "1 x truncated or damaged tar" in caplog.text


def test_fingerprint_is_of_content_order_and_relative_names(tmp_path: Path) -> None:
    rows = make(tmp_path / "a", [2, 3])
    first = manifest.write(str(tmp_path / "a" / "manifest.parquet"), rows).fingerprint
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = manifest.load(str(tmp_path / "b"))
    assert moved.fingerprint == first
    assert moved.shards[0].uri == str(tmp_path / "b" / "00000.tar")
    moved.check()
    (tmp_path / "b" / "00000.tar").rename(tmp_path / "b" / "x.tar")
    others = [
        make(tmp_path / "c", [2, 3], content=b"other"),
        list(reversed(make(tmp_path / "d", [2, 3]))),
        make(tmp_path / "e", [2]),
    ]
    prints = {
        manifest.write(str(Path(some[0][0].uri).parent / "manifest.parquet"), some).fingerprint for some in others
    }
    assert len(prints | {first}) == 4


def test_rewritten_manifest_is_read_anew(tmp_path: Path) -> None:
    uri = str(tmp_path / "manifest.parquet")
    assert manifest.write(uri, make(tmp_path, [2])).index(0).keys == ["0-0", "0-1"]
    assert manifest.write(uri, make(tmp_path, [3])).index(0).keys == ["0-0", "0-1", "0-2"]


def test_check_names_the_shard_that_is_gone_or_changed(tmp_path: Path) -> None:
    made = manifest.write(str(tmp_path / "manifest.parquet"), make(tmp_path, [2, 3]))
    with (tmp_path / "00001.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match=r"00001\.tar has \d+ bytes"):
        made.check()
    (tmp_path / "00001.tar").unlink()
    with pytest.raises(InputError, match=r"00001\.tar, which is gone"):
        made.check()


def test_what_is_no_manifest_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no manifest"):
        manifest.load(str(tmp_path))
    with pytest.raises(InputError, match=r"there is no shard .*7\.tar"):
        manifest.load(str(tmp_path / "7.tar"))
    path = tmp_path / "manifest.parquet"
    made = manifest.write(str(path), make(tmp_path, [1]))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"cliploom.manifest": "99"}), path)
    with pytest.raises(InputError, match="format 99, but this cliploom reads 1"):
        manifest.load(made.uri)
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(InputError, match="is no manifest"):
        manifest.load(made.uri)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="is no manifest"):
        manifest.load(made.uri)
