"""CLIP's byte-pair encoding of captions, with exactly the ids of the reference (openai/CLIP `simple_tokenizer.py`).

What makes it fast: pieces never span white space, so a caption's ids are those of its words one after another, and the
ids of frequent words are kept.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers.models import BPE

from cliploom.data import vocabulary as vocabularies
from cliploom.data.pieces import END_OF_WORD, SPECIAL, clean, pieces, symbols
from cliploom.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

_KEPT_WORDS = 2**16  # some 15 MB
_LONG = 1000  # characters; words of longer captions are not kept, so that odd captions can't fill the memory


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
        self._kept = functools.lru_cache(_KEPT_WORDS)(self._encode_word)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[int, Vocabulary | None]]:
        own = None if self.vocabulary is vocabularies.clip() else self.vocabulary
        return Tokenizer, (self.context_length, own)

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
        for piece in pieces(word)[: self.context_length - 2]:
            if piece in self._special:
                ids.append(self._special[piece])
            else:
                ids += [token.id for token in self._bpe.tokenize(symbols(piece))]
        return tuple(ids[: self.context_length - 2])
