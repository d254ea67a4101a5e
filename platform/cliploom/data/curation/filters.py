"""Rules on a single pair: the size of the image, the length and the script of the caption."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import regex

from cliploom.errors import InputError
from cliploom.settings.curation import CurateFilters

_LETTER = regex.compile(r"\p{L}")


def caption_fault(captions: Sequence[str], filters: CurateFilters) -> str | None:
    """Why none of a pair's captions passes, in words; None where one does."""
    faults = [_fault(" ".join(caption.split()), filters) for caption in captions]
    if not faults:
        return "no captions"
    return None if None in faults else faults[0]


def image_fault(width: int, height: int, filters: CurateFilters) -> str | None:
    """Why an image of so many pixels does not pass, in words, or None."""
    if filters.min_side and min(width, height) < filters.min_side:
        return "image too small"
    if filters.max_aspect and max(width, height) > filters.max_aspect * min(width, height):
        return "image too elongated"
    return None


def check(filters: CurateFilters) -> None:
    """Find out whether the rules can be applied.

    Raises:
        InputError: a script has no name that Unicode knows, or the shortest caption is longer than the longest.
    """
    for name in filters.scripts:
        try:
            _letters((name,))
        except regex.error:
            raise InputError(f"curate.filters.scripts: Unicode has no script {name}; write Latin, Greek, ...") from None
    if filters.min_characters and filters.max_characters and filters.min_characters > filters.max_characters:
        raise InputError("curate.filters.min_characters is above curate.filters.max_characters")


def _fault(caption: str, filters: CurateFilters) -> str | None:
    if not caption:
        return "empty caption"
    if filters.min_characters and len(caption) < filters.min_characters:
        return "caption too short"
    if filters.max_characters and len(caption) > filters.max_characters:
        return "caption too long"
    if filters.scripts:
        of_scripts = len(_letters(tuple(filters.scripts)).findall(caption))
        if not of_scripts or 2 * of_scripts < len(_LETTER.findall(caption)):
            return "other script"
    return None


@functools.lru_cache(maxsize=64)
def _letters(scripts: tuple[str, ...]) -> regex.Pattern[str]:
    """A letter of one of these scripts."""
    if not all(name.replace("_", "").isalpha() for name in scripts):
        raise regex.error(f"no names: {scripts}")
    named = "".join(rf"\p{{Script={name}}}" for name in scripts)
    return regex.compile(rf"[[{named}]&&\p{{L}}]", regex.VERSION1)
