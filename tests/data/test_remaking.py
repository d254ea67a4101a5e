"""Shards that are made again where older ones stand: which are, and that nothing ever tells of bytes that are gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pairs as drawn
from cliploom import storage
from cliploom.config import Config
from cliploom.data import manifest, packing
from cliploom.data.curation import writing
from cliploom.data.prepare import prepare
from cliploom.data.shards import index_shard
from cliploom.settings.data import Prepare
from preparing import pairs, picture, run, write


class StoppedError(Exception):
    """In place of a process that is killed."""


def first_alone(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """A runner that is stopped after the first shard."""
    item = next(iter(items))
    yield item, function(item)
    raise StoppedError


def stop(*_: object) -> None:
    raise StoppedError


def killed_before_the_record(call: Callable[[], object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "write_record", stop)
        with pytest.raises(StoppedError):
            call()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with 4 pairs."""
    files: dict[str, bytes | str] = {f"{i}.png": picture(colour=f"#{i:02x}0000") for i in range(4)}
    return write(tmp_path / "raw", files | {f"{i}.txt": f"caption {i}" for i in range(4)})


@pytest.mark.parametrize(("layout", "listing"), [("pairs", "manifest.parquet"), ("retrieval", "test/nshards.txt")])
def test_from_the_first_shard_that_changes_on_nothing_lists_them(
    source: Path, tmp_path: Path, layout: Any, listing: str
) -> None:
    settings = Prepare(source=str(source), output=str(tmp_path / "out"), layout=layout, shard_samples=2)
    run(source, tmp_path / "out", layout=layout, shard_samples=2)
    with pytest.raises(StoppedError):
        prepare(Config(prepare=settings), first_alone)
    assert (tmp_path / "out" / listing).exists(), "nothing has changed"
    (source / "0.txt").write_text("another caption")
    with pytest.raises(StoppedError):
        prepare(Config(prepare=settings), first_alone)
    assert not (tmp_path / "out" / listing).exists()
    run(source, tmp_path / "out", layout=layout, shard_samples=2)
    assert (tmp_path / "out" / listing).exists()


def test_a_shard_is_not_taken_for_the_one_that_stood_there(source: Path, tmp_path: Path) -> None:
    """Killed after a shard was written over, and run on the former source again."""
    output = tmp_path / "out"
    run(source, output)
    former, size = shutil.copytree(source, tmp_path / "former"), (output / "00000.tar").stat().st_size
    (source / "0.txt").write_text("another caption")
    killed_before_the_record(lambda: run(source, output))
    assert (output / "00000.tar").stat().st_size == size, "tars are padded"
    shutil.rmtree(source)
    former.rename(source)
    assert [captions[0] for *_, captions in pairs(run(source, output))] == [f"caption {i}" for i in range(4)]


def test_nor_is_one_that_curation_has_written(tmp_path: Path) -> None:
    known = manifest.load(drawn.write(tmp_path / "in", shards=1, samples=2))
    places = [str(tmp_path / "out" / name) for name in ("00000.tar", "00000.json", manifest.NAME)]

    def chosen(number: int) -> writing.Selection:
        return writing.Selection(known.shards[0], known.index(0), np.array([number]), *places)

    writing.write(chosen(0))
    size = storage.size(places[0])
    manifest.write(places[2], [index_shard(places[0])[:2]])
    killed_before_the_record(lambda: writing.write(chosen(1)))
    assert storage.size(places[0]) == size, "tars are padded"
    assert not storage.exists(places[2])
    writing.write(chosen(0))
    assert index_shard(places[0])[1].keys == known.index(0).keys[:1]


@pytest.mark.parametrize("remote", [False, pytest.param(True, marks=pytest.mark.integration)])
def test_images_of_a_table_that_were_mended_are_taken(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    images = request.getfixturevalue("s3")() if remote else str(tmp_path / "images")
    names = ("good", "torn", "missing")
    (tmp_path / "t.csv").write_text("image,caption\n" + "".join(f"{name}.png,a {name}\n" for name in names))
    storage.write(f"{images}/good.png", picture())
    storage.write(f"{images}/torn.png", picture()[:20])
    result = run(tmp_path / "t.csv", tmp_path / "out", images=images)
    assert result.faults == {"undecodable image": 1, "no image file": 1}
    for name in names[1:]:
        storage.write(f"{images}/{name}.png", picture())
    result = run(tmp_path / "t.csv", tmp_path / "out", images=images)
    assert (result.samples, result.faults) == (3, {})
    monkeypatch.setattr(packing, "_make", stop)
    assert run(tmp_path / "t.csv", tmp_path / "out", images=images) == result


def test_an_image_of_a_table_that_has_another_size_is_taken(tmp_path: Path) -> None:
    write(tmp_path, {"t.csv": "image,caption\na.png,a\n", "a.png": picture()})
    run(tmp_path / "t.csv", tmp_path / "out")
    write(tmp_path, {"a.png": picture(size=(13, 9))})
    [(_, image, _)] = pairs(run(tmp_path / "t.csv", tmp_path / "out"))
    assert image == picture(size=(13, 9)) != picture()
