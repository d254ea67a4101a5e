"""The demonstration's corpus: some 15,000 drawings of emoji in seven styles, and evaluation sets in two others.

`python -m cliploom.demo.corpus DIR` fetches the pictures, draws them, and makes shards of them by the prepare job's own
code. Never trained on are two whole styles (the test pictures), and, in every style, a tenth of the concepts with all
their skin tones and genders.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cliploom.config import Config
from cliploom.data import manifest
from cliploom.data.prepare import prepare
from cliploom.data.runner import Runner, Tasks
from cliploom.demo import drawings, packages
from cliploom.demo.concepts import Concept, Names, captions, held_out
from cliploom.errors import InputError
from cliploom.settings.data import Prepare

PICTURES = ("@iconify/json", "2.2.535")
WORDS = ("emojibase-data", "17.0.0")
TRAINING_STYLES = (
    "fluent-emoji",
    "fluent-emoji-flat",
    "noto",
    "openmoji",
    "noto-v1",
    "fxemoji",
    "streamline-emojis",
)  # and not emojione-v1: several hundred of its drawings are emojione's
TEST_STYLES = ("twemoji", "emojione")
STYLES = (*TRAINING_STYLES, *TEST_STYLES)
TEMPLATES = ("{c}", "an emoji of {c}")
_FACTS = ("en/data.json", "meta/groups.json", "meta/unicode-names.json")
_SUMMARY = "corpus.json"
_SHARD_SAMPLES = 500
_DRAW_AT_ONCE = 256


@dataclass(frozen=True)
class Drawing:
    """One picture of the corpus."""

    style: str
    name: str
    concept: Concept
    png: bytes

    @property
    def path(self) -> str:
        return f"{self.style}/{self.name}.png"


@dataclass(frozen=True)
class Corpus:
    """The drawings by their use."""

    training: list[Drawing]
    seen: list[Drawing]  # test styles; concepts that training has in other styles
    unseen: list[Drawing]  # test styles; concepts held out of training
    dropped: list[Drawing]  # of the training styles, for being a test style's drawing


class EvaluationSet(NamedTuple):
    """One split of an evaluation set."""

    name: str
    split: str
    classes: str | None  # which list of class names; None is retrieval
    rows: list[tuple[Drawing, Any]]  # with its class name, or its captions


def split(found: Iterable[Drawing], families: set[str]) -> Corpus:
    """Divide the drawings into training and test; `families` are those of the held-out concepts.

    A drawing of a training style that is the same as one of a test style is dropped.
    """
    drawn = list(found)
    training = [one for one in drawn if one.style in TRAINING_STYLES and one.concept.family not in families]
    tests = _one_each(one for one in drawn if one.style in TEST_STYLES)
    same = {i for i, _ in drawings.same_drawings(_pixels(training), _pixels(tests))}
    kept = [one for number, one in enumerate(training) if number not in same]
    trained = {one.concept for one in kept}
    return Corpus(
        kept,
        [one for one in tests if one.concept in trained],
        [one for one in tests if one.concept.family in families],
        [training[number] for number in sorted(same)],
    )


def check(corpus: Corpus) -> None:
    """Assert that training holds no test drawing, no held-out concept, and no test style.

    Raises:
        AssertionError: it does; names one.
    """
    for i, j in drawings.same_drawings(_pixels(corpus.training), _pixels(tests := corpus.seen + corpus.unseen)):
        raise AssertionError(f"{corpus.training[i].path} is the held-out drawing {tests[j].path}")
    unseen = {one.concept.family for one in corpus.unseen}
    for one in corpus.training:
        if one.concept.family in unseen or one.style in TEST_STYLES:
            raise AssertionError(f"{one.path} is held out, but it is in training")


def make(folder: Path, run: Runner) -> dict[str, Any]:
    """Make the corpus below `folder`: cache/, raw/, shards/ and evaluation/.

    Args:
        folder: local.
        run: runs a function over items.

    Returns:
        How many drawings there are of each use, style by style. What is there already is not made again.

    Raises:
        InputError: the pictures can't be downloaded.
    """
    if known := ready(folder):
        return known
    pictures = packages.fetch(*PICTURES, folder / "cache")
    words = packages.fetch(*WORDS, folder / "cache")
    sets = packages.read_json(pictures, ["collections.json", *(f"json/{style}.json" for style in STYLES)])
    facts = packages.read_json(words, _FACTS)
    names = Names(*(facts[name] for name in _FACTS))
    drawn = _draw({style: sets[f"json/{style}.json"] for style in STYLES}, names, run)
    corpus = split(drawn, held_out(names.concepts))
    check(corpus)
    _write_raw(folder / "raw", corpus, sets["collections.json"])
    _prepare(run, folder / "raw" / "pairs.jsonl", folder / "shards", shard_samples=_SHARD_SAMPLES)
    (folder / "shards" / "LICENCES.md").write_text(_licences(sets["collections.json"]), encoding="utf-8")
    for evaluation_set in _evaluation_sets(corpus):
        _make_evaluation_set(run, folder / "raw", folder / "evaluation", evaluation_set)
    known = {"version": _version(), **_counts(corpus)}
    (folder / _SUMMARY).write_text(json.dumps(known, indent=1))
    return known


def ready(folder: Path) -> dict[str, Any] | None:
    """What `make` returned, if the corpus is there and is what `make` would make."""
    summary = folder / _SUMMARY
    if not summary.exists() or not (folder / "shards" / manifest.NAME).exists():
        return None
    known = json.loads(summary.read_text())
    return known if known["version"] == _version() else None


def _draw(icons: dict[str, dict[str, Any]], names: Names, run: Runner) -> list[Drawing]:
    """All pictures of the sets whose concept is known."""
    for known in icons.values():
        for code, name in known.get("chars", {}).items():
            names.add_name(code, name)
            for alias, target in known.get("aliases", {}).items():
                if target == {"parent": name}:
                    names.add_name(code, alias)
    found: list[tuple[str, str, Concept]] = []
    for style, known in icons.items():
        codes = {name: code for code, name in known.get("chars", {}).items()}
        for name, icon in known["icons"].items():
            concept = names.of_code(codes[name]) if name in codes else names.of_name(name)
            if concept and not icon.get("hidden"):
                found.append((style, name, concept))
    print(f"drawing {len(found)} pictures", flush=True)
    documents = [drawings.svg(icons[style], name) for style, name, _ in found]
    chunks = [documents[start : start + _DRAW_AT_ONCE] for start in range(0, len(documents), _DRAW_AT_ONCE)]
    pictures = itertools.chain.from_iterable(pngs for _, pngs in run(drawings.draw, chunks))
    return [Drawing(*one, png) for one, png in zip(found, pictures, strict=True)]


def _write_raw(raw: Path, corpus: Corpus, licences: dict[str, Any]) -> None:
    """Pictures, pairs, and the lists of names, as a user would have them."""
    used = corpus.training + corpus.seen + corpus.unseen
    for style in STYLES:
        (raw / style).mkdir(parents=True, exist_ok=True)
    for one in used:
        (raw / one.path).write_bytes(one.png)
    pairs = sorted(corpus.training, key=lambda one: _rank(one.path))  # so that each shard has all styles
    _write_rows(raw / "pairs.jsonl", (_pair(one, licences[one.style]["license"]["spdx"]) for one in pairs))
    _write_lines(raw / "names.txt", sorted({one.concept.label for one in used}))
    _write_lines(raw / "subgroups.txt", sorted({_words(one.concept.subgroup) for one in used}))
    _write_lines(raw / "templates.txt", TEMPLATES)


def _evaluation_sets(corpus: Corpus) -> Iterator[EvaluationSet]:
    """For each test style: names of seen and of unseen concepts, subgroups, and retrieval."""
    for style in TEST_STYLES:
        seen, unseen = ([one for one in part if one.style == style] for part in (corpus.seen, corpus.unseen))
        for name, part in (("seen", seen), ("unseen", unseen)):
            yield EvaluationSet(f"{style}-{name}", "test", "names", [(one, one.concept.label) for one in part])
        for half, split_name in enumerate(("test", "train")):  # all of a concept is in one of them; train is for probes
            part = [one for one in seen if _rank(one.concept.family)[0] % 2 == half]
            labelled = [(one, _words(one.concept.subgroup)) for one in part]
            yield EvaluationSet(f"{style}-subgroups", split_name, "subgroups", labelled)
        plain = [one for one in seen if "skin tone" not in one.concept.label]  # captions can tell these apart
        yield EvaluationSet(f"{style}-retrieval", "test", None, [(one, captions(one.concept)[::2]) for one in plain])


def _make_evaluation_set(run: Runner, raw: Path, output: Path, one: EvaluationSet) -> None:
    source = raw / f"{one.name}-{one.split}.jsonl"
    column = "class" if one.classes else "caption"
    _write_rows(source, ({**_image(drawing), column: text} for drawing, text in one.rows))
    _prepare(
        run,
        source,
        output / one.name,
        layout="classification" if one.classes else "retrieval",
        split=one.split,
        classnames=str(raw / f"{one.classes}.txt") if one.classes else None,
        templates=str(raw / "templates.txt"),
    )


def _prepare(run: Runner, source: Path, output: Path, **settings: Any) -> None:
    result = prepare(Config(prepare=Prepare(source=str(source), output=str(output), **settings)), run)
    assert not result.faults, result.faults  # the drawings are ours


def _pair(drawing: Drawing, licence: str) -> dict[str, Any]:
    concept = drawing.concept
    return {
        **_image(drawing),
        "caption": captions(concept),
        "style": drawing.style,
        "name": drawing.name,
        "group": concept.group,
        "subgroup": concept.subgroup,
        "licence": licence,
    }


def _image(drawing: Drawing) -> dict[str, Any]:
    """The digest makes a row another one when its picture is another."""
    return {"image": drawing.path, "sha256": hashlib.sha256(drawing.png).hexdigest()}


def _licences(collections: dict[str, Any]) -> str:
    lines = [
        "# Licences of the pictures",
        "",
        f"From {' '.join(PICTURES)} (npm); names and tags from {' '.join(WORDS)}, MIT.",
    ]
    lines += ["", "| style | use | pictures by | licence |", "|---|---|---|---|"]
    for style in STYLES:
        known = collections[style]
        use = "training" if style in TRAINING_STYLES else "evaluation"
        licence = f"[{known['license']['title']}]({known['license']['url']})"
        lines.append(f"| {known['name']} ({style}) | {use} | {known['author']['name']} | {licence} |")
    return "\n".join([*lines, "", "Each sample's own licence (SPDX) stands in its KEY.json.", ""])


def _counts(corpus: Corpus) -> dict[str, Any]:
    parts = {"training": corpus.training, "seen": corpus.seen, "unseen": corpus.unseen, "dropped": corpus.dropped}
    names = {one.concept for use, part in parts.items() for one in part if use != "dropped"}
    return {"names": len(names)} | {use: dict(Counter(one.style for one in part)) for use, part in parts.items()}


def _one_each(drawn: Iterable[Drawing]) -> list[Drawing]:
    """The first drawing of each concept in each style."""
    first: dict[tuple[str, Concept], Drawing] = {}
    for one in drawn:
        first.setdefault((one.style, one.concept), one)
    return list(first.values())


def _pixels(drawn: Sequence[Drawing]) -> np.ndarray:
    return np.stack([drawings.pixels(one.png) for one in drawn])


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    _write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _words(subgroup: str) -> str:
    return subgroup.replace("-", " ")


def _rank(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _version() -> str:
    """Of the corpus: the packages, and the code that makes it."""
    code = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("concepts.py", "corpus.py", "drawings.py"))
    return hashlib.sha256(code).hexdigest()


def main(argv: Sequence[str]) -> int:
    """Make the corpus in the folder that the command line names."""
    from cliploom.cluster import connect

    if len(argv) != 1:
        print("usage: python -m cliploom.demo.corpus DIR", file=sys.stderr)
        return 2
    folder = Path(argv[0])
    try:
        known = ready(folder)
        if not known:
            with connect(Config().ray):
                known = make(folder, Tasks())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    sums = {use: sum(known[use].values()) for use in ("training", "seen", "unseen", "dropped")}
    print(
        f"{folder / 'shards'}: {sums['training']} pairs in {len(known['training'])} styles, {known['names']} names\n"
        f"{folder / 'evaluation'}: pictures in {' and '.join(TEST_STYLES)}, {sums['seen']} of concepts that training "
        f"has in other styles, {sums['unseen']} of concepts held out\n"
        f"left out of training, for being a test picture but for details: {sums['dropped']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
