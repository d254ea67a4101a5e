"""Predicting the set of a caption's words."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
import toys
from cliploom.errors import InputError
from cliploom.objectives.bag_of_words import distinct_words


@pytest.mark.parametrize("name", [toys.VIT, toys.RESNET])
def test_loss_is_the_oracles(name: str) -> None:
    network = toys.network("bag_of_words", name)
    images, tokens = toys.pictures(6, network.config), toys.texts(6, words=4)  # so that words come more than once
    found = toys.loss(network, images, tokens)
    logits = network.see(images) @ network.state_dict()["words"]
    for row, text in enumerate(toys.listed(tokens)):
        torch.testing.assert_close(found[row], oracle.bag_of_words_loss(logits[row], set(text[1:-1])))


@given(st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=1, max_size=5))
def test_each_distinct_word_has_the_same_weight(words: list[list[int]]) -> None:
    tokens = torch.zeros(len(words), 10, dtype=torch.int32)
    for row, text in enumerate(words):
        tokens[row, : len(text) + 2] = torch.tensor([toys.START, *text, toys.END])
    for text, found, weights in zip(words, *distinct_words(tokens, torch.float64), strict=True):
        totals = torch.zeros(toys.VOCABULARY, dtype=torch.float64).index_add(0, found, weights).tolist()
        assert totals == [1 / len(set(text)) if word in text else 0 for word in range(toys.VOCABULARY)]


def test_a_caption_without_words_has_no_loss_and_can_not_be_scored() -> None:
    network = toys.network("bag_of_words")
    images, tokens = toys.pictures(2, network.config), toys.texts(2)
    tokens[1] = torch.tensor([toys.START, toys.END, *[0] * 10])
    losses = toys.loss(network, images, tokens)
    assert losses[0] > 0
    assert losses[1] == 0
    with pytest.raises(InputError, match="text number 1 has no words"):
        network.score(images, tokens)
