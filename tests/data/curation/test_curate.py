"""The job as a whole, in one process."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cliploom import storage
from cliploom.config import Config
from cliploom.data import manifest as manifests
from cliploom.data import shards
from cliploom.data.curation import reference, writing
from cliploom.data.curation import scan as scanning
from cliploom.data.curation.curate import Result, curate
from cliploom.data.curation.report import show
from cliploom.data.shards import ShardWriter
from cliploom.data.tars import TarWriter
from cliploom.errors import InputError
from cliploom.settings.curation import Curate

Pair = tuple[str, bytes, str]  # key, image, caption


def serially(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return ((item, function(item)) for item in items)


def run(source: str, output: Path, **settings: Any) -> Result:
    tree = {"curate": {"manifest": source, "output": str(output), **settings}}
    return curate(Config.model_validate(tree), serially)


def picture(seed: int, size: tuple[int, int] = (40, 30), kind: str = "PNG", **options: Any) -> bytes:
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def write(folder: Path, pairs: list[Pair], shard_samples: int) -> str:
    """Shards of these pairs, and their manifest's URI."""
    rows = []
    for number, start in enumerate(range(0, len(pairs), shard_samples)):
        with ShardWriter(str(folder / f"{number:03d}.tar")) as writer:
            for key, image, caption in pairs[start : start + shard_samples]:
                writer.add(key, image, "png", [caption], {"from": key})
        rows.append((writer.shard, writer.index))
    return manifests.write(str(folder / manifests.NAME), rows).uri


def read(uri: str | None) -> list[Pair]:
    made = manifests.load(uri or "")
    made.check()
    found = []
    for number, shard in enumerate(made.shards):
        index = made.index(number)
        samples = shards.read_samples(shard, index, range(len(index)))
        found += [(key, image, text.decode()) for key, (image, text) in zip(index.keys, samples, strict=True)]
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def words(tmp_path: Path) -> str:
    (tmp_path / "words").write_text("\ufeffred\nblue dog\ncat\nzebra\n")
    return str(tmp_path / "words")


@pytest.fixture
def pairs() -> list[Pair]:
    captions = ["a red cat", "a blue dog", "the dog", "Red, red", "blue", "one cat"]
    return [(f"{n:04d}", picture(n), f"{captions[n % 6]}{'.' * (n % 4)}") for n in range(60)]


def test_pairs_that_contain_a_query_at_most_so_many_each(pairs: list[Pair], words: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in", pairs, 7)
    result = run(source, tmp_path / "out", queries={"lists": [words]}, per_query=8)
    kept = read(result.uri)
    assert set(kept) < set(pairs)
    assert [key for key, *_ in kept] == sorted(key for key, *_ in kept)
    found = Counter(query for *_, text in kept for query in ("red", "blue dog", "cat") if query in text.lower())
    assert all(8 <= found[query] <= 16 for query in ("red", "cat"))  # kept by either of them
    assert found["blue dog"] == 8
    assert result.report["dropped"]["no query"] == 20
    assert result.report["kept"] == len(kept) == 60 - sum(result.report["dropped"].values())
    table = pq.read_table(tmp_path / "out" / "queries.parquet").to_pylist()
    assert [(row["query"], row["before"]) for row in table] == [
        ("blue dog", 10),
        ("cat", 20),
        ("red", 20),
        ("zebra", 0),
    ]
    assert {row["query"]: row["after"] for row in table} == {"zebra": 0, **found}
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == result.report
    assert result.report["queries"]["pairs_of_queries"]["before"] == {"0": 1, "1-9": 0, "10-99": 3}


def test_the_pairs_that_stay_do_not_depend_on_the_shards(pairs: list[Pair], words: str, tmp_path: Path) -> None:
    twice = pairs + [(f"again{key}", image, text) for key, image, text in pairs[:20]]
    settings: dict[str, Any] = {
        "queries": {"lists": [words]},
        "per_query": 6,
        "duplicates": {"captions": False, "phash_distance": 3},
    }
    one = run(write(tmp_path / "one", twice, 7), tmp_path / "a", **settings)
    other = run(write(tmp_path / "other", twice[::-1], 33), tmp_path / "b", **settings)
    assert sorted(pair[1:] for pair in read(one.uri)) == sorted(pair[1:] for pair in read(other.uri))
    for key in ("dropped", "queries", "kept"):
        assert one.report[key] == other.report[key]
    assert one.report["dropped"]["near-duplicate image"] >= 14


def test_every_rule_drops_what_it_names(tmp_path: Path) -> None:
    big, small = picture(1, (80, 60)), picture(2, (20, 60))
    pairs = [
        ("image", big, "a red dog"),
        ("same-image", big, "another red dog"),
        ("caption", picture(3, (80, 60)), "a red cat"),
        ("same-caption", picture(4, (80, 60)), "a red cat"),
        ("picture", picture(5, (80, 60)), "one red bird"),
        ("same-picture", picture(5, (80, 60), "JPEG", quality=30), "two red birds"),
        ("small", small, "a red dog, small"),
        ("long-image", picture(6, (300, 60)), "a red dog, long"),
        ("broken", big[:200], "a red dog, torn"),
        ("short", picture(11, (80, 60)), "red"),
        ("long", picture(7, (80, 60)), "red " * 30),
        ("script", picture(8, (80, 60)), "red собака и кошка"),
        ("other", picture(9, (80, 60)), "a green dog"),
        ("empty", picture(10, (80, 60)), " "),
    ]
    (tmp_path / "words").write_text("red\n")
    settings = {
        "queries": {"lists": [str(tmp_path / "words")]},
        "filters": {"min_side": 30, "max_aspect": 3, "min_characters": 5, "max_characters": 50, "scripts": ["Latin"]},
        "duplicates": {"captions": True, "images": True, "phash_distance": 6},
    }
    result = run(write(tmp_path / "in", pairs, 5), tmp_path / "out", **settings)
    assert result.report["dropped"] == dict.fromkeys(
        [
            "empty caption",
            "caption too short",
            "caption too long",
            "other script",
            "no query",
            "undecodable image",
            "image too small",
            "image too elongated",
            "duplicate caption",
            "duplicate image",
            "near-duplicate image",
        ],
        1,
    )
    keys = {key.removeprefix("same-") for key, *_ in read(result.uri)}
    assert keys == {"image", "caption", "picture"}
    assert result.report["kept"] == 3


def test_without_rules_everything_stays_as_it_is(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "in" / "0.tar"), several=True) as writer:
        writer.add("a", b"no picture", "jpeg", ["one", "two\nlines"], {"url": "http://a", "licence": "CC0"})
        writer.add("b/c", b"\xff\xd8", "jpg", ["größer"])
    source = manifests.write(str(tmp_path / "in" / manifests.NAME), [(writer.shard, writer.index)])
    result = run(source.uri, tmp_path / "out")
    assert (tmp_path / "out" / "00000.tar").read_bytes() == (tmp_path / "in" / "0.tar").read_bytes()
    assert result.report["queries"]["number"] == 0
    assert manifests.load(result.uri or "").fingerprint == manifests.load(str(tmp_path / "out")).fingerprint


def test_what_is_known_of_a_pair_goes_with_it(pairs: list[Pair], words: str, tmp_path: Path) -> None:
    result = run(write(tmp_path / "in", pairs, 20), tmp_path / "out", queries={"lists": [words]}, per_query=3)
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            for name in (name for name in names if name.endswith(".json")):
                file = tar.extractfile(name)
                assert file is not None
                assert json.load(file) == {"from": name.removesuffix(".json")}
        assert len([name for name in names if name.endswith(".json")]) == len(names) / 3
    assert result.report["kept"] > 0


def test_json_that_is_broken_or_has_no_bytes_in_utf_8(tmp_path: Path) -> None:
    members = {"a": b'{"by": "\\ud83d x"}', "b": b'{"by"', "c": b"[1]", "d": None, "e": b'{"by": "\\ud83d\\ude00"}'}
    with TarWriter(str(tmp_path / "in" / "0.tar")) as tar:
        for key, known in members.items():
            tar.add(f"{key}.JPG", key.encode())
            tar.add(f"{key}.txt", b"one")
            if known is not None:
                tar.add(f"{key}.json", known)
    result = run(str(tmp_path / "in" / "0.tar"), tmp_path / "out")
    assert result.report["kept"] == 5
    with tarfile.open(tmp_path / "out" / "00000.tar") as made:
        found = {member.name: file.read() for member in made if (file := made.extractfile(member))}
    assert {name: json.loads(data) for name, data in found.items() if name.endswith(".json")} == {
        "a.json": {"by": "? x"},
        "e.json": {"by": "😀"},
    }
    assert found["d.jpg"] == b"d"

    with TarWriter(str(tmp_path / "several" / "0.tar")) as tar:
        for key, captions in {"a": '["fine"]', "b": '["\\ud83d"]', "c": "[]", "d": "3"}.items():
            tar.add(f"{key}.png", key.encode())
            tar.add(f"{key}.json", f'{{"captions": {captions}}}'.encode())
    result = run(str(tmp_path / "several" / "0.tar"), tmp_path / "out")
    assert result.report["dropped"] == {"caption is not UTF-8 text": 1, "no captions": 2}


def test_embeddings(pairs: list[Pair], tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((60, 16)).astype(np.float16)
    vectors[30:40] = vectors[:10] * 2
    np.save(tmp_path / "e.npy", vectors)
    settings = {"duplicates": {"embeddings": str(tmp_path / "e.npy"), "min_cosine": 0.99}}
    result = run(write(tmp_path / "in", pairs, 11), tmp_path / "out", **settings)
    assert result.report["dropped"] == {"near-duplicate embedding": 10}
    kept = {int(key) for key, *_ in read(result.uri)}
    assert all((n in kept) != (n + 30 in kept) for n in range(10))


def test_a_dry_run_reports_the_same_and_writes_no_shards(
    pairs: list[Pair], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in", pairs, 7)
    settings: dict[str, Any] = {"queries": {"lists": [words]}, "per_query": 8}
    dry = run(source, tmp_path / "out", dry_run=True, **settings)
    assert dry.uri is None
    assert [name for name in content(tmp_path / "out") if not name.startswith(".")] == ["dry_run.json"]
    monkeypatch.setattr(scanning, "_facts", None)  # what the dry run found out serves the real one
    wet = run(source, tmp_path / "out", **settings)
    for key in ("pairs", "kept", "dropped", "queries"):
        assert dry.report[key] == wet.report[key]


def test_run_again_it_makes_only_what_is_missing(
    pairs: list[Pair], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write(tmp_path / "in", pairs, 7), tmp_path / "out"
    settings: dict[str, Any] = {"queries": {"lists": [words]}, "per_query": 8}
    run(source, output, **settings)
    whole = content(output)
    [facts] = output.glob(".curate/facts-*")
    (facts / "00003.npz").unlink()
    (output / ".curate" / "shards" / "00001.json").write_text("{")
    (output / "00002.tar").unlink()
    (output / "report.json").unlink()
    (output / ".curate" / "attempt-dead").mkdir()
    (output / ".curate" / "attempt-dead" / "limits.npz").write_bytes(b"torn")
    scanned: list[str] = []
    made: list[str] = []
    find, pairs_of = scanning._facts, writing._pairs
    monkeypatch.setattr(scanning, "_facts", lambda item: scanned.append(item.shard.uri[-7:]) or find(item))  # type: ignore[func-returns-value]
    monkeypatch.setattr(writing, "_pairs", lambda item: made.append(item.uri[-9:]) or pairs_of(item))  # type: ignore[func-returns-value]
    run(source, output, **settings)
    assert scanned == ["003.tar"]
    assert made == ["00001.tar", "00002.tar"]
    assert content(output) == whole


def test_a_reference_is_counted_once(pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in", pairs, 30)
    (tmp_path / "text").write_text("red dog, red dog, cat")
    queries: dict[str, Any] = {"reference": str(tmp_path / "text"), "min_count": 2, "bigram_pmi": 1}
    first = run(source, tmp_path / "out", queries=queries)
    table = pq.read_table(tmp_path / "out" / "queries.parquet").to_pylist()
    assert [row["query"] for row in table] == ["dog", "red", "red dog"]
    monkeypatch.setattr(reference, "_count_words", None)
    assert run(source, tmp_path / "out", queries=queries, per_query=3).report["kept"] < first.report["kept"]
    with pytest.raises(TypeError):  # another reference, or other limits of it, are counted anew
        run(source, tmp_path / "out", queries={**queries, "min_count": 1})


def test_other_settings_leave_nothing_of_the_former(pairs: list[Pair], words: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in", pairs, 2)
    run(source, tmp_path / "out")
    run(source, tmp_path / "out", queries={"lists": [words]}, per_query=1)
    run(source, tmp_path / "fresh", queries={"lists": [words]}, per_query=1)
    again, fresh = content(tmp_path / "out"), content(tmp_path / "fresh")
    assert {name for name in again if name != "report.json"} == {name for name in fresh if name != "report.json"}
    assert all(again[name] == fresh[name] for name in fresh if name.endswith((".tar", ".parquet", ".npz")))


def test_wrong_input_is_answered_in_one_line(pairs: list[Pair], words: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in", pairs, 30)
    (tmp_path / "blank").write_text(" \n\n")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\n")
    np.save(tmp_path / "few.npy", np.ones((3, 2)))
    embeddings = {"embeddings": str(tmp_path / "few.npy")}
    cases: dict[str, dict[str, Any]] = {
        r"curate\.queries\.lists: there is no file .*none": {"queries": {"lists": [words, str(tmp_path / "none")]}},
        r"curate\.queries\.lists: there is no query in .*blank": {"queries": {"lists": [str(tmp_path / "blank")]}},
        r"curate\.queries\.lists: .*latin is not UTF-8 text": {"queries": {"lists": [str(tmp_path / "latin")]}},
        r"curate\.queries\.reference: there is no file .*none": {"queries": {"reference": str(tmp_path / "none")}},
        r"curate\.duplicates\.embeddings and .*min_cosine go together": {"duplicates": embeddings},
        r"curate\.duplicates\.embeddings: .*few\.npy has float64 3 x 2, the manifest 60 pairs": {
            "duplicates": {**embeddings, "min_cosine": 0.9}
        },
        r"curate\.duplicates\.embeddings: there is no file .*none\.npy": {
            "duplicates": {"embeddings": str(tmp_path / "none.npy"), "min_cosine": 0.9}
        },
        r"curate\.duplicates\.embeddings: .* is neither \.npy nor \.parquet": {
            "duplicates": {"embeddings": words, "min_cosine": 0.9}
        },
        r"curate\.filters\.scripts: Unicode has no script latine": {"filters": {"scripts": ["latine"]}},
        r"none of .* 60 pairs stays: 60 x caption too short": {"filters": {"min_characters": 99}},
        r"curate\.output: .*in holds the pairs to choose from": {"output": str(tmp_path / "in")},
    }
    for message, settings in cases.items():
        tree = {"curate": {"manifest": source, "output": str(tmp_path / "out"), **settings}}
        with pytest.raises(InputError, match=message) as caught:
            curate(Config.model_validate(tree), serially)
        assert "\n" not in str(caught.value)
    for settings in ({"manifest": source}, {"output": "x"}):
        with pytest.raises(InputError, match=r"curate\.(output|manifest) is not set"):
            curate(Config(curate=Curate(**settings)), serially)


def test_a_shard_that_is_gone_stops_the_job(pairs: list[Pair], tmp_path: Path) -> None:
    source = write(tmp_path / "in", pairs, 30)
    storage.delete(str(tmp_path / "in" / "001.tar"))
    with pytest.raises(InputError, match=r"001\.tar, which is gone"):
        run(source, tmp_path / "out")


def test_the_report_is_shown_as_tables(
    pairs: list[Pair], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(write(tmp_path / "in", pairs, 30), tmp_path / "out", queries={"lists": [words]}, per_query=8)
    show(result.report)
    said = capsys.readouterr().out
    for what in ("no query", "33.33%", "above the limit of its queries", "4 queries", "10-99"):
        assert what in said
