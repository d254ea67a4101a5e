"""Which queries a caption contains, against a plain search."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from cliploom.data.curation.matching import Matcher, Queries
from cliploom.data.curation.text import folded

texts = st.text(st.sampled_from("abBé\u0301ß1 _-+.'\n\0"), max_size=12)


def contains(caption: str, query: str) -> bool:
    """Whether the query stands in the caption, with no letter or digit going on where it begins or ends with one."""
    left = r"(?<!\w)" if regex.match(r"\w", query) else ""
    right = r"(?!\w)" if regex.match(r"\w", query[-1]) else ""
    return regex.search(f"{left}{regex.escape(query, literal_spaces=True)}{right}", caption) is not None


@given(st.lists(texts, max_size=3), st.lists(texts.filter(folded), min_size=1, max_size=8))
def test_it_finds_what_a_search_for_each_query_finds(captions: list[str], lines: list[str]) -> None:
    queries = Queries.of(lines)
    expected = [n for n, query in enumerate(queries.texts) if any(contains(folded(c), query) for c in captions)]
    assert Matcher(queries).find(captions) == expected


@pytest.mark.parametrize(
    ("caption", "query", "found"),
    [
        ("A RED  dog's tail", "red dog", True),
        ("redder dogs", "red", False),
        ("over-red", "red", True),
        ("red, dog", "red dog", False),
        ("programming in C++", "C++", True),
        ("Straße", "STRASSE", True),
        ("cafe\u0301", "Café", True),
        ("हिन्दी भाषा", "हिन्दी", True),
        ("हिन्दी", "हिन", False),
        ("黒い犬がいる", "犬", True),
        ("黒い犬がいる", "黒い犬", True),
        ("สุนัขสีดำ", "สุนัข", True),
    ],
)
def test_words(caption: str, query: str, found: bool) -> None:
    assert Matcher(Queries.of([query])).find([caption]) == ([0] if found else [])


@given(st.lists(texts, min_size=1).filter(lambda lines: any(map(folded, lines))))
def test_queries_do_not_depend_on_order_case_and_composition(lines: list[str]) -> None:
    queries = Queries.of(lines)
    others = [unicodedata.normalize("NFD", line.swapcase()) for line in reversed(lines)]
    assert Queries.of(lines[::-1] + lines).texts == queries.texts
    assert Queries.of(others).texts == Queries.of(unicodedata.normalize("NFC", line) for line in others).texts


def test_a_query_has_its_hash_whatever_the_others_are() -> None:
    few, many = Queries.of(["b", "d"]), Queries.of("abcdef")
    assert few.hashes().tolist() == many.hashes()[[1, 3]].tolist()
    assert len(set(many.hashes().tolist())) == 6


def test_saved_queries_are_plain_lines(tmp_path: Path) -> None:
    uri = str(tmp_path / "queries.txt")
    Queries.of(["Dog ", "  ", "a\u00a0cat", "dog"]).save(uri)
    assert Path(uri).read_text() == "a cat\ndog"
    assert Queries.load(uri).texts == ["a cat", "dog"]
