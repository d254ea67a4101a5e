from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cliploom.data import manifest, shards
from cliploom.demo import corpus, packages
from cliploom.demo.concepts import Concept
from cliploom.errors import InputError

TONE = "dark skin tone"


def serially(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return ((item, function(item)) for item in items)


def body(number: int, style: int) -> str:
    """A pattern that is another one for each concept, with something of the style."""
    bits = (number * 2654435761 + style * 40503) % 2**32
    squares = "".join(
        f'<path fill="#{(bits * (k + 7)) % 0xFFFFFF:06x}" d="M{4 * (k % 4)} {4 * (k // 4)}h4v4h-4z"/>'
        for k in range(16)
        if bits >> k & 1
    )
    return f'<circle cx="{3 + style}" cy="12" r="{1 + style / 2}" fill="#000"/>{squares}'


@pytest.fixture
def sets() -> dict[str, Any]:
    """The packages' files, with 40 concepts in each style, and one drawing of a test style copied into training."""
    codes = [f"{0x1F600 + i:x}" for i in range(40)]
    emoji = []
    for i, code in enumerate(codes):
        skin = {"label": f"thing {i}: {TONE}", "hexcode": f"{code.upper()}-1F3FF"}
        entry = {"label": f"thing {i}", "hexcode": code.upper(), "group": 0, "subgroup": i % 2, "tags": [f"tag {i}"]}
        emoji.append({**entry, "skins": [skin]})
    files: dict[str, Any] = {
        "en/data.json": emoji,
        "meta/groups.json": {"groups": {"0": "things"}, "subgroups": {"0": "odd-things", "1": "even-things"}},
        "meta/unicode-names.json": {},
        "collections.json": {},
    }
    for number, style in enumerate(corpus.STYLES):
        icons = {f"thing-{i}": {"body": body(2 * i, number)} for i in range(40)}
        icons |= {f"thing-{i}-dark": {"body": body(2 * i + 1, number)} for i in range(40)}
        chars = {f"{code}-1f3ff": f"thing-{i}-dark" for i, code in enumerate(codes)}
        files[f"json/{style}.json"] = {"icons": icons, "chars": chars, "width": 16, "height": 16}
        licence = {"title": f"Licence {style}", "spdx": f"SPDX-{number}", "url": "https://example.org"}
        files["collections.json"][style] = {"name": style, "license": licence, "author": {"name": "somebody"}}
    files["json/noto.json"]["icons"]["thing-3"] = files["json/twemoji.json"]["icons"]["thing-4"]
    return files


@pytest.fixture
def made(sets: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    def read_json(_: Path, names: Iterable[str]) -> dict[str, Any]:
        return {name: sets[name] for name in names}

    monkeypatch.setattr(packages, "fetch", lambda name, version, folder: folder)
    monkeypatch.setattr(packages, "read_json", read_json)
    return tmp_path, corpus.make(tmp_path, serially)


def test_corpus_is_training_shards_and_evaluation_sets(made: tuple[Path, dict[str, Any]]) -> None:
    folder, counts = made
    training = manifest.load(str(folder / "shards"))
    training.check()
    assert training.samples == sum(counts["training"].values())
    assert counts["names"] == 80
    assert counts["dropped"]["noto"] >= 1
    index = training.index(0)
    [(image, member)] = shards.read_samples(training.shards[0], index, [0])
    known = json.loads(member)
    assert image.startswith(b"\x89PNG")
    assert known["captions"][0].startswith("thing ")
    assert known["licence"] == f"SPDX-{corpus.STYLES.index(known['style'])}"
    assert {known["style"], known["subgroup"]} <= {*corpus.TRAINING_STYLES, "odd-things", "even-things"}
    licences = (folder / "shards" / "LICENCES.md").read_text()
    assert all(f"Licence {style}" in licences for style in corpus.STYLES)
    for style in corpus.TEST_STYLES:
        names = [
            (folder / "evaluation" / f"{style}-{part}" / "classnames.txt").read_text() for part in ("seen", "unseen")
        ]
        assert names[0] == names[1]
        assert len(names[0].splitlines()) == 80
        subgroups = folder / "evaluation" / f"{style}-subgroups"
        assert (subgroups / "classnames.txt").read_text() == "even things\nodd things\n"
        assert (subgroups / "train" / "nshards.txt").read_text() == "1"
        with tarfile.open(folder / "evaluation" / f"{style}-retrieval" / "test" / "0.tar") as tar:
            texts = [file.read().decode() for one in tar if one.name.endswith("txt") and (file := tar.extractfile(one))]
        assert all("skin tone" not in text and len(text.splitlines()) == 2 for text in texts)


def test_no_held_out_concept_is_in_training_in_any_variant(made: tuple[Path, dict[str, Any]]) -> None:
    folder, counts = made
    rows = [json.loads(line) for line in (folder / "raw" / "pairs.jsonl").read_text().splitlines()]
    trained = {row["caption"][0].partition(":")[0] for row in rows}
    unseen = [
        json.loads(line)["class"] for line in (folder / "raw" / "twemoji-unseen-test.jsonl").read_text().splitlines()
    ]
    assert len(unseen) == counts["unseen"]["twemoji"] == 8  # 10 % of 40 concepts, in 2 skin tones
    assert not trained & {name.partition(":")[0] for name in unseen}
    seen = [json.loads(line)["class"] for line in (folder / "raw" / "twemoji-seen-test.jsonl").read_text().splitlines()]
    assert not set(seen) & set(unseen)


def test_made_again_nothing_is_done(made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, counts = made
    fingerprint = manifest.load(str(folder / "shards")).fingerprint
    (folder / "corpus.json").unlink()  # as if it was killed just before its end
    assert corpus.make(folder, serially) == counts
    assert manifest.load(str(folder / "shards")).fingerprint == fingerprint

    def fetch(*_: object) -> Path:
        raise InputError("not to be called")

    monkeypatch.setattr(packages, "fetch", fetch)
    assert corpus.make(folder, serially) == counts
    (folder / "shards" / "manifest.parquet").unlink()
    with pytest.raises(InputError):
        corpus.make(folder, serially)


def drawing(style: str, name: str, number: int) -> corpus.Drawing:
    icons = {"icons": {name: {"body": body(number, 0)}}, "width": 16, "height": 16}
    [png] = corpus.drawings.draw([corpus.drawings.svg(icons, name)])
    return corpus.Drawing(style, name, Concept(name, (), "g", "s"), png)


def test_a_training_picture_that_is_a_test_picture_is_dropped() -> None:
    drawn = [drawing("noto", "cat", 1), drawing("noto", "dog", 2), drawing("openmoji", "dog", 3)]
    drawn += [drawing("twemoji", "cat", 1), drawing("emojione", "dog", 4), drawing("twemoji", "cow", 5)]
    result = corpus.split(drawn, {"cow"})
    assert [one.path for one in result.training] == ["noto/dog.png", "openmoji/dog.png"]
    assert [one.path for one in result.dropped] == ["noto/cat.png"]
    assert [one.path for one in result.seen] == ["emojione/dog.png"]  # no training picture of a cat is left
    assert [one.path for one in result.unseen] == ["twemoji/cow.png"]
    corpus.check(result)


def test_the_check_finds_what_leaks() -> None:
    cat, dog, test = drawing("noto", "cat", 1), drawing("noto", "dog", 2), drawing("twemoji", "cow", 3)
    corpus.check(corpus.Corpus([cat, dog], [], [test], []))
    copied = dataclasses.replace(dog, png=test.png)
    with pytest.raises(AssertionError, match=r"noto/dog\.png is the held-out drawing twemoji/cow\.png"):
        corpus.check(corpus.Corpus([cat, copied], [], [test], []))
    variant = dataclasses.replace(dog, concept=Concept("woman cow", (), "g", "s"))
    with pytest.raises(AssertionError, match=r"noto/dog\.png is held out"):
        corpus.check(corpus.Corpus([variant], [], [test], []))
    with pytest.raises(AssertionError, match=r"twemoji/dog\.png is held out"):
        corpus.check(corpus.Corpus([dataclasses.replace(dog, style="twemoji")], [], [test], []))
