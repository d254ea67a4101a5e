"""Visual n-grams: the dictionary against plain counting, the loss against a plain recursion."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
import toys
from cliploom import objectives
from cliploom.errors import InputError
from cliploom.objectives import dictionary, ngrams

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=8)


def spelled(table: Tensor, vocab_size: int = toys.VOCABULARY) -> list[oracle.NGram]:
    """The n-grams in a table, in its order."""
    found: list[oracle.NGram] = []
    for entry in table.tolist():
        parent, token = divmod(entry, vocab_size)
        found.append((*found[parent - 1], token) if parent else (token,))
    return found


def padded(words: list[list[int]]) -> Tensor:
    tokens = torch.zeros(len(words), toys.LENGTH, dtype=torch.int64)
    for row, text in enumerate(words):
        tokens[row, : len(text) + 2] = torch.tensor([toys.START, *text, toys.END])
    return tokens


@given(TEXTS, st.integers(1, 40), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3))
def test_dictionary_is_that_of_plain_counting(
    words: list[list[int]], most: int, min_count: int, orders: int, batch: int
) -> None:
    tokens = padded(words)
    expected = oracle.frequent_ngrams(toys.listed(tokens), most, min_count, orders)
    if not expected:
        return
    table = objectives.count_ngrams(list(tokens.split(batch)), toys.VOCABULARY, most, min_count, orders)
    assert spelled(table) == sorted(expected, key=lambda ngram: (len(ngram), ngram))
    dictionary.check_table(table, toys.VOCABULARY)


def test_counts_are_the_same_when_they_are_merged_often(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = list(toys.texts(50, words=5).split(3))
    expected = objectives.count_ngrams(batches, toys.VOCABULARY, 100, 2)
    monkeypatch.setattr(dictionary, "_PENDING", 0)
    assert torch.equal(objectives.count_ngrams(batches, toys.VOCABULARY, 100, 2), expected)


@given(TEXTS, TEXTS)
def test_all_n_grams_of_a_text_are_found_and_no_others(known: list[list[int]], asked: list[list[int]]) -> None:
    table = objectives.count_ngrams([padded(known)], toys.VOCABULARY, 30, 1)
    there = {ngram: place for place, ngram in enumerate(spelled(table))}
    tokens = padded(asked)
    _, ends = dictionary.walk(table, tokens, toys.VOCABULARY)
    for row, text in enumerate(toys.listed(tokens)):
        for n, nodes in enumerate(ends, start=1):
            for last in range(len(text)):
                ngram = tuple(text[last - n + 1 : last + 1]) if last >= n - 1 else None
                assert int(nodes[row, last]) == there.get(ngram, -2) + 1 if ngram else int(nodes[row, last]) == -1


@pytest.mark.parametrize("name", [toys.VIT, toys.RESNET])
def test_loss_is_the_oracles(name: str) -> None:
    network = toys.network("ngrams", name)
    assert isinstance(network, ngrams.NGramPredictor)
    images, tokens = toys.pictures(6, network.config), toys.texts(6, seed=3)  # many n-grams are in no dictionary
    tokens[:3] = toys.texts(3)  # these are in it
    logits = (network.see(images) @ network.embeddings).detach()
    found = toys.loss(network, images, tokens)
    names = spelled(network.ngrams)
    assert {len(ngram) for ngram in names} == {1, 2, 3, 4, 5}
    for row, text in enumerate(toys.listed(tokens)):
        scores = dict(zip(names, logits[row], strict=True))
        expected = 0.0
        for place in range(1, len(text)):
            history = tuple(text[max(0, place - 4) : place])
            every = [
                oracle.ngram_probability(scores, word, history, toys.VOCABULARY, ngrams.SMOOTHING)
                for word in range(toys.VOCABULARY)
            ]
            assert math.isclose(float(sum(every)), 1)
            expected -= math.log(every[text[place]])
        assert math.isclose(found[row].item(), expected, rel_tol=1e-10)


def test_scores_of_few_texts_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    network = toys.network("ngrams")
    images, tokens = toys.pictures(3, network.config), toys.texts(7)
    expected = network.score(images, tokens)
    monkeypatch.setattr(ngrams, "SCORED_ELEMENTS", 1)
    torch.testing.assert_close(network.score(images, tokens), expected)


def test_a_dictionary_is_read_as_it_was_written() -> None:
    table = toys.ngrams()
    data = dictionary.pack(table, toys.VOCABULARY)
    assert torch.equal(dictionary.unpack(data, toys.VOCABULARY, "FILE"), table)
    with pytest.raises(InputError, match="FILE counts n-grams of 40 token ids, the model has 41"):
        dictionary.unpack(data, 41, "FILE")
    for damaged in (b"", data[:20], data[:-8], b"x" * 100):
        with pytest.raises(InputError, match="FILE is no dictionary"):
            dictionary.unpack(damaged, toys.VOCABULARY, "FILE")


@pytest.mark.parametrize(
    "table",
    [
        torch.tensor([3, 3]),
        torch.tensor([5, 2]),
        torch.tensor([-1, 2]),
        torch.tensor([2, 3 * toys.VOCABULARY]),  # its parent is behind it
        torch.tensor([k * toys.VOCABULARY for k in range(6)]),  # six tokens
        torch.tensor([1, 2], dtype=torch.int32),
        torch.zeros(0, dtype=torch.int64),
    ],
)
def test_what_is_no_table_is_refused(table: Tensor) -> None:
    with pytest.raises(InputError, match="no table of n-grams"):
        objectives.create("ngrams", toys.config(), 0, table)


def test_a_missing_dictionary_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"objective\.ngrams"):
        objectives.create("ngrams", toys.config(), 0)
