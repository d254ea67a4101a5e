from __future__ import annotations

from typing import Any

import pytest

from cliploom.data.curation.filters import caption_fault, check, image_fault
from cliploom.errors import InputError
from cliploom.settings.curation import CurateFilters


@pytest.mark.parametrize(
    ("rules", "captions", "fault"),
    [
        ({}, ["x"], None),
        ({}, [" \n"], "empty caption"),
        ({}, [], "no captions"),
        ({"min_characters": 3}, [" ab "], "caption too short"),
        ({"min_characters": 3}, ["ab", "abc"], None),  # one caption of several is enough
        ({"min_characters": 3, "max_characters": 3}, ["日本語"], None),
        ({"max_characters": 3}, ["a  b c"], "caption too long"),
        ({"scripts": ["Latin"]}, ["ein größerer Hund, 12"], None),
        ({"scripts": ["Latin"]}, ["собака"], "other script"),
        ({"scripts": ["Latin"]}, ["IMG собака"], "other script"),
        ({"scripts": ["Latin"]}, ["dogs соба"], None),  # half of the letters
        ({"scripts": ["Latin", "Cyrillic"]}, ["IMG собака"], None),
        ({"scripts": ["Latin"]}, ["12.5 %"], "other script"),
        ({"scripts": ["Han", "Hiragana", "Katakana"]}, ["黒い犬"], None),
    ],
)
def test_captions(rules: dict[str, Any], captions: list[str], fault: str | None) -> None:
    assert caption_fault(captions, CurateFilters(**rules)) == fault


@pytest.mark.parametrize(
    ("rules", "size", "fault"),
    [
        ({}, (1, 1000), None),
        ({"min_side": 64}, (64, 64), None),
        ({"min_side": 64}, (63, 640), "image too small"),
        ({"max_aspect": 2.5}, (100, 250), None),
        ({"max_aspect": 2.5}, (251, 100), "image too elongated"),
    ],
)
def test_images(rules: dict[str, Any], size: tuple[int, int], fault: str | None) -> None:
    assert image_fault(*size, CurateFilters(**rules)) == fault


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"scripts": ["Latin", "Klingon"]}, r"curate\.filters\.scripts: Unicode has no script Klingon"),
        ({"scripts": ["}\\w{"]}, r"curate\.filters\.scripts: Unicode has no script"),
        ({"min_characters": 9, "max_characters": 8}, r"min_characters is above .*max_characters"),
    ],
)
def test_rules_that_cannot_be_applied(rules: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check(CurateFilters(**rules))
