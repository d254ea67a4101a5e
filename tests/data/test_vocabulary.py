from __future__ import annotations

import gzip
import itertools
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.data import vocabulary
from cliploom.data.pieces import ALPHABET
from cliploom.data.vocabulary import NAME, SMALLEST, Vocabulary
from cliploom.errors import InputError

CAPTIONS = [
    "a photo of a cat",
    "a photo of a dog",
    "A cat's photo, isn't it?",
    "une photo d’un café",
    "猫の写真 1234",
] * 2
Pair = tuple[str, str]


def plain_merges(captions: list[str], most: int) -> list[Pair]:
    """Byte-pair encoding of words of a, b and c as Sennrich et al. write it; of equal counts, the lowest ids first."""
    words = Counter(word for caption in captions for word in caption.split())
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    ids = {token: number for number, token in enumerate(["a", "b", "c", "a</w>", "b</w>", "c</w>"])}
    merges: list[Pair] = []
    while len(merges) < most:
        pairs: Counter[Pair] = Counter()
        for word, tokens in split.items():
            for pair in itertools.pairwise(tokens):
                pairs[pair] += words[word]
        if not pairs or max(pairs.values()) < 2:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        joined = "".join(best)
        if joined not in ids:
            ids[joined] = len(ids)
            merges.append(best)
        for tokens in split.values():
            for i in range(len(tokens) - 1):
                if tuple(tokens[i : i + 2]) == best:
                    tokens[i : i + 2] = [joined]
    return merges


@given(st.lists(st.text("abc ", max_size=12), max_size=12), st.integers(1, 20))
@settings(max_examples=200)
def test_merges_are_those_of_the_plain_algorithm(captions: list[str], most: int) -> None:
    expected = plain_merges(captions, most)
    if expected:
        assert list(vocabulary.train(captions, SMALLEST - 1 + len(expected)).merges) == expected
    if len(expected) < most:
        with pytest.raises(InputError, match=f"a vocabulary of {SMALLEST - 1 + len(expected)} at most, not"):
            vocabulary.train(captions, SMALLEST - 1 + most)


def test_a_file_depends_on_the_captions_alone() -> None:
    """Neither on their order, nor on the hash tables of a process."""
    code = f"import sys; from cliploom.data import vocabulary; made = vocabulary.train({CAPTIONS[::-1]!r}, 540).pack()"
    command = [sys.executable, "-c", f"{code}; sys.stdout.write(made.hex())"]
    found = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)}
    shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
    assert found == {vocabulary.train(shuffled, 540).pack().hex()}


def test_frequent_words_become_one_token() -> None:
    tokens = vocabulary.train(CAPTIONS * 50, 545).tokens
    assert {"photo</w>", "a</w>", "of</w>", "cat</w>"} <= set(tokens)
    assert len(set(tokens)) == len(tokens) == 543


def test_what_the_tokenizer_takes_whole_is_not_learned() -> None:
    with pytest.raises(InputError, match="at most"):
        vocabulary.train(["<end_of_text> <start_of_text>"] * 10, SMALLEST)


def test_a_file_is_read_as_it_was_written() -> None:
    made = vocabulary.train(CAPTIONS, 545)
    read = vocabulary.parse(made.pack(), "file")
    assert read == made
    assert (read.size, read.digest) == (545, made.digest)
    assert vocabulary.train(CAPTIONS, 544).digest != made.digest


def test_clip_s_own_file_is_read_up_to_where_the_reference_reads_it() -> None:
    assert (vocabulary.clip().size, len(vocabulary.clip().tokens)) == (49408, 49406)
    assert vocabulary.parse(vocabulary.clip().pack(), "file") == vocabulary.clip()


def packed(*lines: str) -> bytes:
    return gzip.compress("\n".join(["#version: 0.2", *lines]).encode())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no line with #version"),
        (b"#version: 0.2\na b", "no gzip of UTF-8 text"),
        (packed("a b")[:-9], "no gzip of UTF-8 text"),
        (packed("a b")[:-8] + bytes(8), "no gzip of UTF-8 text"),
        (gzip.compress(b"#version: 0.2\n\xff b"), "no gzip of UTF-8 text"),
        (gzip.compress(b"a b\nab c"), "no line with #version"),
        (packed(), "no line with #version"),
        (packed("a b", "abc"), "line 3 is not two tokens of the lines before it: 'abc'"),
        (packed("a b", "a b c"), "line 3 "),
        (packed("a bc", "b c"), "line 2 "),
        (packed("a b", ""), "line 3 "),
        (packed("a b\r", "c d"), "line 2 "),
    ],
)
def test_a_damaged_file_is_answered_in_one_line(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.gz").write_bytes(data)
    with pytest.raises(InputError, match=said) as found:
        vocabulary.load(str(tmp_path / "broken.gz"))
    assert f"{tmp_path}/broken.gz" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("mebibytes", "said"), [(512, "larger than 64 MiB"), (60, "line 2 ")])
def test_a_bomb_does_not_fill_the_memory(mebibytes: int, said: str) -> None:
    """Neither one that unpacks to much, nor one whose many lines would make a long list."""
    packer = zlib.compressobj(level=1, wbits=31)
    data = b"".join(packer.compress(part) for part in [b"#version: 0.2\n", *[b"\n" * 2**20] * mebibytes])
    data += packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=said):
            vocabulary.parse(data, "bomb")
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


def test_no_file_and_a_file_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "own.bpe"
    with pytest.raises(InputError, match=r"there is no vocabulary file .*own\.bpe: make one with jobs/vocab"):
        vocabulary.load(str(path))
    made = vocabulary.train(CAPTIONS, 540)
    path.write_bytes(made.pack())
    assert vocabulary.load(str(path), made.digest) == made
    with pytest.raises(InputError, match=r"own\.bpe has changed since the run began"):
        vocabulary.load(str(path), vocabulary.clip().digest)
    with pytest.raises(InputError, match=f"{tmp_path} can't be read"):
        vocabulary.load(str(tmp_path))


def test_a_model_s_vocabulary_lies_beside_its_weights(tmp_path: Path) -> None:
    def of(name: str, size: int) -> Vocabulary:
        return vocabulary.of_model(f"{tmp_path}{name}", size)

    assert of("", 49408) == of("/weights.safetensors", 49408) == vocabulary.clip()
    with pytest.raises(InputError, match=rf"has 540 token ids, CLIP's vocabulary has 49408: put .* as {NAME}"):
        of("", 540)
    made = vocabulary.train(CAPTIONS, 540)
    (tmp_path / NAME).write_bytes(made.pack())
    assert of("", 540) == of("/weights.safetensors", 540) == made
    assert of("/ViT-B-32.pt", 49408) == vocabulary.clip()  # OpenAI's, in the same folder of downloads
    with pytest.raises(InputError, match=rf"has 49408 token ids, {tmp_path}/{NAME} has 540"):
        of("", 49408)


def test_ids_begin_with_the_bytes() -> None:
    assert len({*ALPHABET}) == 256
    assert vocabulary.clip().tokens[:3] == ["!", '"', "#"]
