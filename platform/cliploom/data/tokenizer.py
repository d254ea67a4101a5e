"""CLIP's byte-pair encoding of captions, with exactly the ids of the reference (openai/CLIP `simple_tokenizer.py`).

What makes it fast: pieces never span white space, so a caption's ids are those of its words one after another, and the
ids of frequent words are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers.models import BPE

from cliploom.data import vocabulary as vocabularies
from cliploom.data.pieces import END_OF_WORD, SPECIAL, clean, pieces, symbols
from cliploom.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

_MOST_KEPT = 16 << 20  # bytes of words, after which they are forgotten
_KEPT_WORD = 100  # bytes of a word's entry beside its characters


class _Words(dict[str, int]):
    """The number of each word that was met; by number, which of `ids` are the word's.

    Only grows: what is there stays as it is, so that threads may read it while others add words.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._encode, self._lock = encode, threading.Lock()
        self._used = self.bytes = 0
        self.ids = np.zeros(1024, np.int32)
        self.starts, self.lengths = np.zeros(1024, np.int64), np.zeros(1024, np.int64)

    def __missing__(self, word: str) -> int:
        ids = self._encode(word)
        with self._lock:
            if (known := self.get(word)) is not None:
                return known
            number = len(self)
            self.ids = _put(self.ids, self._used, ids)
            self.starts = _put(self.starts, number, [self._used])
            self.lengths = _put(self.lengths, number, [len(ids)])
            self._used += len(ids)
            self.bytes += len(word) + _KEPT_WORD
            self[word] = number
        return number


def _put(array: np.ndarray, at: int, values: Sequence[int]) -> np.ndarray:
    """`array` with `values` from `at` on: itself, or where they don't fit a larger copy."""
    end = at + len(values)
    if end > len(array):
        array = np.concatenate([array, np.zeros(max(len(array), end), array.dtype)])
    array[at:end] = values
    return array


class Tokenizer:
    """Captions to token ids.

    Calling it gives int64 torch tensors; `encode_batch` numpy arrays, without importing torch. It may be shared by
    threads, and pickled.

    Args:
        context_length: ids a caption, with those of start and end.
        vocabulary: whose ids; CLIP's by default.

    Attributes:
        sot, eot: ids of start and end of text; `eot` is the highest.
    """

    def __init__(self, context_length: int = 77, vocabulary: Vocabulary | None = None) -> None:
        self.context_length = context_length
        self.vocabulary = vocabulary or vocabularies.clip()
        self.sot, self.eot = self.vocabulary.size - 2, self.vocabulary.size - 1
        self._special = dict(zip(SPECIAL, (self.sot, self.eot), strict=True))
        ids = {token: number for number, token in enumerate(self.vocabulary.tokens)}
        self._bpe = BPE(vocab=ids, merges=[*self.vocabulary.merges], end_of_word_suffix=END_OF_WORD)
        self._words = _Words(self._encode_word)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[int, Vocabulary | None]]:
        own = None if self.vocabulary is vocabularies.clip() else self.vocabulary
        return Tokenizer, (self.context_length, own)

    def __call__(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Ids of one or more captions, int64 [B, context_length]; as `encode_batch`."""
        import torch

        return torch.from_numpy(self._encode([texts] if isinstance(texts, str) else texts, np.int64))

    def encode_batch(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Ids of captions, int32 [B, context_length]: start, text, end, zeros; a long text is cut before the end."""
        return self._encode(texts, np.int32)

    def _encode(self, texts: Sequence[str], dtype: type[np.integer]) -> NDArray[Any]:
        room = self.context_length - 2
        known = self._words
        if known.bytes > _MOST_KEPT:
            known = self._words = _Words(self._encode_word)
        words: list[str] = []
        counts: list[int] = []
        for text in texts:
            found = clean(text).split()[:room]  # each gives one id or more
            words += found
            counts.append(len(found))
        numbers = np.fromiter(map(known.__getitem__, words), np.int64, len(words))
        lengths = known.lengths[numbers]
        ends = np.concatenate([[0], lengths.cumsum()])  # of each word's ids among all, the first word's from 0
        borders = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])  # of each caption's words
        totals = np.diff(ends[borders])
        row = np.repeat(np.arange(len(counts)), totals)  # of each id
        every = np.arange(ends[-1])
        column = every - ends[borders[:-1]][row]
        ids = known.ids[np.repeat(known.starts[numbers] - ends[:-1], lengths) + every]
        fits = column < room
        batch = np.zeros((len(counts), self.context_length), dtype)
        batch[:, 0] = self.sot
        batch[row[fits], column[fits] + 1] = ids[fits]
        batch[np.arange(len(counts)), np.minimum(totals, room) + 1] = self.eot
        return batch

    def _encode_word(self, word: str) -> list[int]:
        """The first ids of what stands between two spaces."""
        room = self.context_length - 2
        ids: list[int] = []
        for piece in pieces(word)[:room]:
            if piece in self._special:
                ids.append(self._special[piece])
            else:
                ids += [token.id for token in self._bpe.tokenize(symbols(piece))]
        return ids[:room]
