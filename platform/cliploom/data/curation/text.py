"""Text as queries and captions are compared: caseless, composed, with the boundaries of words marked.

Marked text turns "contains these words" into "contains this string": ` Red   dogs!` is `|red|dogs|!`, and contains
`|red|` and `|dogs|`, but not `|dog|`. Scripts that are written without spaces have a boundary at every character.
"""

from __future__ import annotations

import re
import unicodedata

import regex

_MARK = "\0"
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_BOUNDARY = regex.compile(rf"\b|(?<=[{_UNSPACED}])|(?=[{_UNSPACED}])")
_ASCII_BOUNDARY = re.compile(r"\b", re.ASCII)  # the same for ASCII, in a third of the time
_RUN = regex.compile(r"\w+(?: \w+)*")


def folded(text: str) -> str:
    """`text` for caseless comparison (Unicode 3.13, D145, composed), with single spaces."""
    text = " ".join(text.replace(_MARK, " ").split())
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def marked(text: str) -> str:
    """Folded `text` with a mark at each boundary of a word, in place of a space between two words."""
    boundary = _ASCII_BOUNDARY if text.isascii() else _BOUNDARY
    return boundary.sub(_MARK, text).replace(f"{_MARK} {_MARK}", _MARK)


def runs_of_words(text: str) -> list[list[str]]:
    """The words of folded `text`, in runs that only single spaces interrupt."""
    return [run.split(" ") for run in _RUN.findall(text)]
