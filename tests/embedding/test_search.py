"""The nearest embeddings, and the folder that holds them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pairs
from cliploom.embedding import search, sheet, sources, store
from cliploom.embedding.store import Embeddings, EmbeddingStore
from cliploom.errors import InputError
from cliploom.evaluation.model import Model
from cliploom.evaluation.store import Features

MODEL = Model("emoji", 3, "somewhere", "sha256:abc", 32, 4, 77, 49408, 14.3)


def features(keys: list[str], broken: int | None = None, seed: int = 0) -> Features:
    """Of random unit vectors; the sample `broken` could not be read."""
    drawn = np.random.default_rng(seed).normal(size=(len(keys), 4)).astype(np.float32)
    images = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    causes = np.array(["undecodable image" if number == broken else "" for number in range(len(keys))])
    empty, none = np.array([], np.str_), np.zeros(0, np.int64)
    return Features(
        np.array(keys), np.array([""] * len(keys)), causes, images, images, np.zeros(len(keys), np.uint64), empty, none,
        np.zeros((0, 4), np.float32), np.zeros(1),
    )  # fmt: skip


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 3))
def test_nearest_are_those_of_a_full_sort(rows: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(rows, 8)).astype(np.float32)
    vectors[rows // 2 :] = vectors[: rows - rows // 2]  # every second one has an equal
    query = random.normal(size=8).astype(np.float32)
    found = search.nearest(vectors, query, count)
    order = np.argsort(-(vectors @ query), kind="stable")[:count]
    assert [hit.row for hit in found] == order.tolist()


def test_nothing_is_nearest_to_nothing() -> None:
    assert search.nearest(np.zeros((0, 4), np.float32), np.ones(4, np.float32), 5) == []


@pytest.fixture
def filled(tmp_path: Path) -> str:
    """Two parts, of which one has a broken sample."""
    made = EmbeddingStore(str(tmp_path), MODEL, {"d1": "s3://b/0.tar", "d2": "s3://b/1.tar"})
    made.save("d1", features(["a", "b", "c"], broken=1))
    again = EmbeddingStore(str(tmp_path), MODEL, {"d1": "s3://b/0.tar", "d2": "s3://b/1.tar"})
    assert "d1" in again
    assert "d2" not in again
    again.save("d2", features(["d"], seed=1))
    again.finish("s3://b", ["d1", "d2"])
    return str(tmp_path)


def test_what_was_kept_is_read_back(filled: str) -> None:
    found = store.load(filled)
    assert found.keys == ["a", "c", "d"]
    assert found.places == ["s3://b/0.tar", "s3://b/0.tar", "s3://b/1.tar"]
    np.testing.assert_array_equal(found.vectors[:2], features(["a", "b", "c"]).images[[0, 2]])
    told = json.loads(Path(filled, "embeddings.json").read_text())
    assert (told["format_version"], told["model"]["digest"], told["rows"]) == (2, "sha256:abc", 3)
    assert told["parts"][0]["broken"] == [["b", "undecodable image"]]


def test_a_source_of_which_nothing_could_be_read_has_no_rows(tmp_path: Path) -> None:
    made = EmbeddingStore(str(tmp_path), MODEL, {"d1": "s3://b/0.tar", "d2": "s3://b/1.tar"})
    made.save("d1", features(["a"], broken=0))
    made.save("d2", features(["b"]))
    assert [part.rows for part in made.finish("s3://b", ["d1", "d2"])] == [0, 1]
    found = store.load(str(tmp_path))
    assert (found.keys, found.vectors.shape) == (["b"], (1, 4))


def test_another_model_s_embeddings_are_not_mixed_in(filled: str) -> None:
    other = Model(**{**MODEL.__dict__, "digest": "sha256:def"})
    with pytest.raises(InputError, match=r"another model or format \(emoji 3 sha256:abc, now emoji 3 sha256:def\)"):
        EmbeddingStore(filled, other, {})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "embeddings.json").unlink(), "are not complete: run jobs/embed.py"),
        (lambda folder: next(folder.glob("part-*")).write_bytes(b"x"), "is not the file that embeddings.json lists"),
        (lambda folder: change(folder, format_version=1), "format 1, this cliploom reads 2: make them anew"),
    ],
)
def test_what_is_not_whole_is_refused(filled: str, damage: Any, said: str) -> None:
    damage(Path(filled))
    with pytest.raises(InputError, match=said):
        store.load(filled)


def test_a_folder_without_embeddings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"are not there: make them by jobs/embed\.py"):
        store.load(str(tmp_path))


def change(folder: Path, **values: Any) -> None:
    file = folder / "embeddings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_sources_are_shards_or_files(tmp_path: Path) -> None:
    uri = pairs.write(tmp_path / "shards", shards=2, samples=3)
    for given_uri in (uri, str(tmp_path / "shards")):
        assert [source.digest[:7] for source in sources.find(given_uri)] == ["sha256:"] * 2
    (tmp_path / "files/deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.JPG", "notes.txt"):
        (tmp_path / "files" / name).write_bytes(b"x")
    [lot] = sources.find(str(tmp_path / "files"))
    assert isinstance(lot, sources.Files)
    assert [Path(one).name for one in lot.uris] == ["a.png", "b.JPG"]
    (tmp_path / "files/a.png").write_bytes(b"xx")
    assert sources.find(str(tmp_path / "files"))[0].digest != lot.digest
    with pytest.raises(InputError, match="there is no manifest"):
        sources.find(str(tmp_path / "nowhere"))


def test_a_sheet_shows_pictures_with_captions_and_stands_alone(tmp_path: Path) -> None:
    uri = pairs.write(tmp_path, shards=1, samples=2)
    [shard] = sources.find(uri)
    vectors = np.eye(2, 4, dtype=np.float32)
    places = [sources.place(shard)] * 2
    found = Embeddings("e", uri, {"name": "emoji", "version": 3}, ["000000000", "lost"], places, vectors)
    hits = search.nearest(vectors, np.array([1, 0.5, 0, 0], np.float32), 2)
    page = sheet.render(found, hits, "<red>", None)
    assert page.count("data:image/webp;base64,") == 1
    assert "a red ellipse" in page
    assert "&lt;red&gt;" in page
    assert ">gone<" in page
    assert "http" not in page.replace("http-equiv", "")
    picture = io.BytesIO()
    Image.new("RGB", (600, 400)).save(picture, "PNG")
    assert sheet.render(found, hits, "", picture.getvalue()).count("data:image/webp;base64,") == 2
