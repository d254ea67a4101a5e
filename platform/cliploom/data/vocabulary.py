"""Vocabularies of the byte-pair encoding: CLIP's, and those that are trained on captions of one's own.

A file has the format of CLIP's own (`bpe_simple_vocab_16e6.txt.gz`): a gzip of a line that names the version, then a
merge a line, two tokens with a space between, in order of priority. open_clip's `SimpleTokenizer(bpe_path=FILE)` reads
it too, and gives the same ids. Its name does not end in `.gz`: MLflow would tell S3 that such a file is packed for the
way alone, and whoever loads the model would get it unpacked, with another digest.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.resources
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import BpeTrainer

from cliploom import storage
from cliploom.data.pieces import ALPHABET, END_OF_WORD, SPECIAL, SYMBOLS, clean, pieces, symbols
from cliploom.errors import InputError, refused

NAME = "vocabulary.bpe"  # beside the weights of a model with a vocabulary of its own
_CLIP = "clip_vocabulary.bpe"
_HEADER = "#version: 0.2"
_BASE = 2 * len(ALPHABET) + len(SPECIAL)  # ids that every vocabulary has
_MOST_MERGES = 49152 - 256 - 2  # the reference reads no more of a file; CLIP's holds more
SMALLEST, LARGEST = _BASE + 1, _BASE + _MOST_MERGES
_MOST_BYTES = 2**26  # of a file, packed or not; CLIP's has 3 MiB

_LEAST_COUNT = 2  # what stands together once makes no merge
_LAST = 0xE000  # training writes the last byte b of a piece as this private character + b
_REPEATS = 4096  # a piece is handed to the trainer so many times at once


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that there are, by how they are merged.

    Attributes:
        merges: pairs of tokens that become one, in order of priority.
    """

    merges: tuple[tuple[str, str], ...]

    @property
    def size(self) -> int:
        """Number of ids: bytes, bytes that end a word, merges, start and end of text."""
        return _BASE + len(self.merges)

    @property
    def tokens(self) -> list[str]:
        """The tokens by id, up to those of start and end of text."""
        ends = (symbol + END_OF_WORD for symbol in ALPHABET)
        return [*ALPHABET, *ends, *(left + right for left, right in self.merges)]

    @property
    def digest(self) -> str:
        """SHA-256 of the merges."""
        return f"sha256:{hashlib.sha256(self._text().encode()).hexdigest()}"

    def pack(self) -> bytes:
        """The bytes of its file; they depend on the merges alone."""
        return gzip.compress(f"{_HEADER}\n{self._text()}".encode(), mtime=0)

    def _text(self) -> str:
        # No line break after the last: the reference would count a token more.
        return "\n".join(f"{left} {right}" for left, right in self.merges)


@functools.cache
def clip() -> Vocabulary:
    """CLIP's own, of 49408 ids."""
    return parse(importlib.resources.files("cliploom.data").joinpath(_CLIP).read_bytes(), _CLIP)


def load(uri: str | None, digest: str | None = None) -> Vocabulary:
    """The vocabulary in the file at `uri`, CLIP's without one; a run knows it by its digest, too.

    Raises:
        InputError: there is no such file, it is none of a vocabulary, or of one with another digest.
        TransportError: it can't be read now.
    """
    try:
        with refused(f"the vocabulary file {uri} can't be read", OSError):
            found = parse(storage.read(uri, length=_MOST_BYTES + 1), uri) if uri else clip()
    except FileNotFoundError:
        raise InputError(f"there is no vocabulary file {uri}: make one with jobs/vocabulary.py") from None
    if digest is not None and found.digest != digest:
        raise InputError(f"{uri} has changed since the run began: restore it, or begin a run anew")
    return found


def of_model(weights: str, vocab_size: int) -> Vocabulary:
    """The vocabulary that belongs to a model: the file beside its weights, or CLIP's where there is none.

    Args:
        weights: URI of a folder of weights, or of `weights.safetensors` in one; a file of another name may come from
            anywhere, and has CLIP's.
        vocab_size: of the model.

    Raises:
        InputError: the file is none of a vocabulary, or the model has another number of token ids.
    """
    folder = storage.parent(weights) if storage.name(weights) == "weights.safetensors" else weights
    own = storage.join(folder, NAME)
    if storage.exists(own):
        found, whose = load(own), own
    else:
        found, whose = clip(), "CLIP's vocabulary"
    if found.size != vocab_size:
        raise InputError(
            f"the model {weights} has {vocab_size} token ids, {whose} has {found.size}: "
            f"put the vocabulary that it was trained with beside its weights, as {NAME}"
        )
    return found


def parse(data: bytes, place: str) -> Vocabulary:
    """The vocabulary that a file's bytes hold; of more merges than the reference reads, those that it reads.

    Raises:
        InputError: they hold none; names `place`.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            text = file.read(_MOST_BYTES + 1)
        if max(len(data), len(text)) > _MOST_BYTES:
            raise InputError(f"{place} is no vocabulary: it is larger than {_MOST_BYTES >> 20} MiB")
        header, *lines = text.decode("utf-8").split("\n", _MOST_MERGES + 1)[: _MOST_MERGES + 1]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{place} is no vocabulary, or damaged: it is no gzip of UTF-8 text ({error})") from None
    if "#version" not in header or not lines:
        raise InputError(f"{place} is no vocabulary: it has no line with #version before lines of merges")
    return Vocabulary(tuple(_merges(lines, place)))


def _merges(lines: list[str], place: str) -> Iterator[tuple[str, str]]:
    known = {*ALPHABET, *(symbol + END_OF_WORD for symbol in ALPHABET)}
    for number, line in enumerate(lines, start=2):
        left, _, right = line.partition(" ")
        if left not in known or right not in known:
            raise InputError(
                f"{place} is no vocabulary, or damaged: line {number} is not two tokens of the lines before it: "
                f"{line[:60]!r}"
            )
        known.add(left + right)
        yield left, right


def train(captions: Iterable[str], size: int) -> Vocabulary:
    """The vocabulary of `size` ids that byte-pair encoding finds in captions, whatever their order.

    Bytes that most often stand together in a piece are merged, over and over again (Sennrich et al. 2016, *Neural
    Machine Translation of Rare Words with Subword Units*). Memory holds every word of the captions once.

    Args:
        captions: of any number; each is read once.
        size: from SMALLEST to LARGEST.

    Raises:
        InputError: the captions don't hold so many tokens.
    """
    words: Counter[str] = Counter()
    for caption in captions:
        words.update(clean(caption).split())
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in pieces(word):
            if piece not in SPECIAL:
                counts[_letters(piece)] += count
    merges: dict[str, tuple[str, str]] = {}
    for pair in _train_merges(counts, size):
        merges.setdefault("".join(pair), pair)  # another way to the same token would take an id for nothing
    found = Vocabulary(tuple(merges.values()))
    if found.size < size:
        raise InputError(
            f"the captions, of {len(words)} different words, make a vocabulary of {found.size} at most, not {size}: "
            "ask for a smaller one, or give more captions"
        )
    return found


def _letters(piece: str) -> str:
    """A piece with a character for each byte, the last one apart from all others.

    The trainer has a way to mark ends of its own (`end_of_word_suffix`), but gives ids to what it marks in the order
    of a hash table, and by ids it decides between pairs of equal counts. Characters it sorts.
    """
    data = piece.encode()
    return symbols(piece)[:-1] + chr(_LAST + data[-1])


def _train_merges(counts: Counter[str], size: int) -> list[tuple[str, str]]:
    """The merges of pieces in `_letters`, which stand there so often; in order of priority."""
    ends = {_LAST + byte: symbol + END_OF_WORD for byte, symbol in SYMBOLS.items()}
    tokenizer = tokenizers.Tokenizer(BPE())
    tokenizer.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=size - len(SPECIAL),
        min_frequency=_LEAST_COUNT,
        initial_alphabet=[*ALPHABET, *map(chr, ends)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated(counts), trainer)
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left.translate(ends), right.translate(ends)) for left, right in found]


def _repeated(counts: Counter[str]) -> Iterator[str]:
    for piece, count in counts.items():
        whole, rest = divmod(count, _REPEATS)
        for _ in range(whole):
            yield " ".join([piece] * _REPEATS)
        yield " ".join([piece] * rest)
