"""From a caption to what byte-pair encoding works on, exactly as the reference (openai/CLIP `simple_tokenizer.py`).

A caption is cleaned, and its words are cut into pieces (runs of letters, single digits, runs of other characters, the
English contractions), over none of which a merge reaches. Pieces never span white space.

ftfy, by far the slowest step of the reference, is passed over where it can be seen to change nothing (`_fix`).
"""

from __future__ import annotations

import html
import itertools
import re
import unicodedata

import ftfy
import regex
from ftfy import badness, chardata, fixes

SPECIAL = ("<start_of_text>", "<end_of_text>")  # also when they stand in a caption, as in the reference
END_OF_WORD = "</w>"  # ends each token that ends a piece
_PIECE = regex.compile("|".join(SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)

# Every character that one of ftfy's fixers replaces, except for curly quotes; and line breaks, at which it starts anew.
_FIXED_ONE_BY_ONE = re.compile(
    "[\n\r\u2028\u2029\x80-\x9f\ud800-\udfff"
    + re.escape("".join(map(chr, [*chardata.LIGATURES, *chardata.WIDTH_MAP, *chardata.CONTROL_CHARS])))
    + "]"
)

# The characters one of which is in all that `is_bad` finds, and those between; about others, as emoji and Chinese, it
# needn't be asked.
_IN_BAD = sorted({character for character in badness.BADNESS_RE.pattern if not character.isascii()})
_SUSPECT = re.compile(f"[\x80-{max(filter('⺀'.__gt__, _IN_BAD))}{''.join(filter('⺀'.__le__, _IN_BAD))}]")


def clean(text: str) -> str:
    """A caption as the encoding sees it, up to white space: mojibake and HTML entities mended, in lower case."""
    text = _fix(text)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return text.lower()


def pieces(word: str) -> list[str]:
    """The pieces of what stands between two spaces of a clean caption; some may be SPECIAL."""
    if word.isascii() and word.isalpha():
        return [word]
    return _PIECE.findall(word)


def symbols(piece: str) -> str:
    """A piece's bytes, each as the printable character that stands for it in vocabularies."""
    if piece.isascii() and piece.isprintable():
        return piece
    return piece.encode().decode("latin-1").translate(SYMBOLS)


def _fix(text: str) -> str:
    """`ftfy.fix_text(text)`, seldom calling it.

    On printable ASCII without "&" (entities begin with it) none of ftfy's steps finds anything to do. On other text
    the steps are: decoding of entities, of text that `is_bad` suspects, replacement of single characters, and NFC;
    over again until nothing changes. Where only curly quotes are found, straightening them is all that it does.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    if "&" not in text and not _FIXED_ONE_BY_ONE.search(text) and not (_SUSPECT.search(text) and badness.is_bad(text)):
        straight = fixes.uncurl_quotes(text)
        changed = straight != text
        if unicodedata.is_normalized("NFC", straight) and not (changed and badness.is_bad(straight)):
            return straight
    return ftfy.fix_text(text)


def _byte_symbols() -> dict[int, str]:
    """The printable character that stands for each byte (GPT-2's table)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = itertools.count(256)
    return {byte: chr(byte if byte in printable else next(others)) for byte in range(256)}


SYMBOLS = _byte_symbols()
ALPHABET = tuple(sorted(SYMBOLS.values(), key=lambda symbol: (ord(symbol) >= 256, symbol)))  # by id
