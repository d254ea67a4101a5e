"""CLIP's byte-pair encoding of captions, with exactly the ids of the reference (openai/CLIP `simple_tokenizer.py`).

Two things make it fast. Pieces never span white space, so a caption's ids are those of its words one after another,
and the ids of frequent words are kept. And ftfy, by far the slowest step of the reference, is passed over where it can
be seen to change nothing (`_fix`).
"""

from __future__ import annotations

import functools
import gzip
import html
import importlib.resources
import itertools
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ftfy
import numpy as np
import regex
from ftfy import badness, chardata, fixes
from numpy.typing import NDArray
from tokenizers.models import BPE

if TYPE_CHECKING:
    import torch

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2  # the file holds more; the vocabulary is cut here
_SPECIAL = ("<start_of_text>", "<end_of_text>")  # also when they stand in a caption, as in the reference
_PIECE = regex.compile("|".join(_SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
_KEPT_WORDS = 2**16  # some 15 MB
_LONG = 1000  # characters; words of longer captions are not kept, so that odd captions can't fill the memory

# Every character that one of ftfy's fixers replaces, except for curly quotes; and line breaks, at which it starts anew.
_FIXED_ONE_BY_ONE = re.compile(
    "[\n\r\u2028\u2029\x80-\x9f\ud800-\udfff"
    + re.escape("".join(map(chr, [*chardata.LIGATURES, *chardata.WIDTH_MAP, *chardata.CONTROL_CHARS])))
    + "]"
)


class Tokenizer:
    """Captions to token ids.

    Calling it gives int64 torch tensors; `encode_batch` numpy arrays, without importing torch. It may be shared by
    threads, and pickled.

    Attributes:
        context_length: ids a caption, with those of start and end.
        sot, eot: ids of start and end of text.
    """

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length
        vocabulary, merges = _load()
        self.sot, self.eot = len(vocabulary), len(vocabulary) + 1
        self._special = dict(zip(_SPECIAL, (self.sot, self.eot), strict=True))
        self._bpe = BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>")
        self._kept = functools.lru_cache(_KEPT_WORDS)(self._encode_word)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[int]]:
        return Tokenizer, (self.context_length,)

    def __call__(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Ids of one or more captions, int64 [B, context_length]; as `encode_batch`."""
        import torch

        batch = self.encode_batch([texts] if isinstance(texts, str) else texts)
        return torch.from_numpy(batch).long()

    def encode_batch(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Ids of captions, int32 [B, context_length]: start, text, end, zeros; a long text is cut before the end."""
        room = self.context_length - 2
        ids: list[int] = []
        lengths: list[int] = []
        for text in texts:
            encode_word = self._kept if len(text) <= _LONG else self._encode_word
            words = clean(text).split()[:room]  # each gives one id or more
            found = [*itertools.chain.from_iterable(map(encode_word, words))][:room]
            ids += [self.sot, *found, self.eot]
            lengths.append(len(found) + 2)
        batch = np.zeros((len(lengths), self.context_length), np.int32)
        batch[np.arange(self.context_length) < np.array(lengths, np.int32)[:, None]] = ids
        return batch

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """The first ids of what stands between two spaces."""
        ids: list[int] = []
        for piece in _PIECE.findall(word)[: self.context_length - 2]:
            if piece in self._special:
                ids.append(self._special[piece])
            else:
                ids += [token.id for token in self._bpe.tokenize(piece.encode().decode("latin-1").translate(_SYMBOLS))]
        return tuple(ids[: self.context_length - 2])


def clean(text: str) -> str:
    """A caption as the encoding sees it, up to white space: mojibake and HTML entities mended, in lower case."""
    text = _fix(text)
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return text.lower()


def _fix(text: str) -> str:
    """`ftfy.fix_text(text)`, seldom calling it.

    On printable ASCII without "&" (entities begin with it) none of ftfy's steps finds anything to do. On other text
    the steps are: decoding of entities, of text that `is_bad` suspects, replacement of single characters, and NFC;
    over again until nothing changes. Where only curly quotes are found, straightening them is all that it does.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    if "&" not in text and not _FIXED_ONE_BY_ONE.search(text) and not badness.is_bad(text):
        straight = fixes.uncurl_quotes(text)
        changed = straight != text
        if unicodedata.is_normalized("NFC", straight) and not (changed and badness.is_bad(straight)):
            return straight
    return ftfy.fix_text(text)


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in the vocabulary file (GPT-2's table)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = itertools.count(256)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_SYMBOLS = dict(enumerate(_byte_symbols()))


def _load() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary without special tokens, and the merges in order of priority."""
    packed = importlib.resources.files("cliploom.data").joinpath(_VOCABULARY).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")[1 : _MERGES + 1]  # the first names the version
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    symbols = sorted(_SYMBOLS.values(), key=lambda symbol: (ord(symbol) >= 256, symbol))
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(left + right for left, right in merges)]
    return {token: number for number, token in enumerate(tokens)}, merges
