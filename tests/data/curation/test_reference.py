"""Queries of a reference text against a plain count."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.data.curation import reference
from cliploom.errors import InputError
from cliploom.settings.curation import CurateQueries

lines = st.lists(st.text(st.sampled_from("aB ,é日"), max_size=9), max_size=12)


def serially(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return ((item, function(item)) for item in items)


@given(lines, st.integers(1, 40))
def test_each_line_is_read_once_however_the_text_is_cut(text: list[str], stretch: int) -> None:
    content = "\n".join(text).encode()
    with tempfile.NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        Path(file.name).write_bytes(content)
        patch.setattr(reference, "_TAIL", 3)
        starts = range(0, len(content), stretch)
        cuts = [
            reference.Stretch(file.name, start, min(start + stretch, len(content)), len(content)) for start in starts
        ]
        assert b"".join(map(reference._lines, cuts)) == content


@pytest.mark.parametrize("stretch", [7, 100, 10**6])
def test_frequent_words_and_bigrams_that_belong_together(
    tmp_path: Path, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = [
        "New York is new, and the York of old",
        "the new New York",
        "Über new York; the über new",
        "a the a the the",
    ]
    (tmp_path / "text").write_text("\n".join(text))
    monkeypatch.setattr(reference, "_STRETCH", stretch)
    runs = [part.split() for line in text for part in line.lower().replace(";", ",").split(",")]
    words = Counter(word for run in runs for word in run)
    bigrams = Counter(pair for run in runs for pair in itertools.pairwise(run))

    def information(one: str, other: str) -> float:
        together = bigrams[one, other] / bigrams.total()
        return math.log2(together / (words[one] / words.total()) / (words[other] / words.total()))

    for least, bits in ((1, 1.0), (2, 0.5), (3, -9.0)):
        settings = CurateQueries(reference=str(tmp_path / "text"), min_count=least, bigram_pmi=bits)
        expected = [word for word, count in words.items() if count >= least]
        expected += [" ".join(pair) for pair, n in bigrams.items() if n >= least and information(*pair) >= bits]
        assert sorted(reference.queries(settings, str(tmp_path / str(least)), serially)) == sorted(expected)
    assert any(" " in query for query in expected)


def test_bigrams_only_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("red dog red dog")
    settings = CurateQueries(reference=str(tmp_path / "text"), min_count=2)
    assert sorted(reference.queries(settings, str(tmp_path), serially)) == ["dog", "red"]


def test_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("red dog")
    for settings, said in (
        (CurateQueries(reference=str(tmp_path / "none")), r"curate\.queries\.reference: there is no file .*none"),
        (CurateQueries(reference=str(tmp_path / "text")), r"curate\.queries\.min_count: no word of .* 100 times"),
    ):
        with pytest.raises(InputError, match=said):
            list(reference.queries(settings, str(tmp_path), serially))
