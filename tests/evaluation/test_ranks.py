from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.evaluation import ranks


def _brute_force(queries: np.ndarray, gallery: np.ndarray, right: list[list[int]]) -> list[int]:
    found = []
    for query, answers in zip(queries, right, strict=True):
        order = np.argsort(-(gallery @ query), kind="stable").tolist()
        found.append(min(order.index(answer) for answer in answers))
    return found


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([1, 20, 1 << 25]))
def test_first_hits_are_those_of_a_stable_sort_in_tiles_of_any_size(
    count: int, size: int, seed: int, tile: int
) -> None:
    random = np.random.default_rng(seed)
    queries, gallery = (random.integers(-1, 2, (n, 2)).astype(np.float32) for n in (count, size))  # many ties
    right = [sorted(random.permutation(size)[: random.integers(1, size + 1)].tolist()) for _ in range(count)]
    query = np.repeat(np.arange(count), [len(answers) for answers in right])
    answer = np.concatenate([np.array(answers) for answers in right])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_TILE", tile)
        found = ranks.first_hits(queries, gallery, query, answer)
    assert found.tolist() == _brute_force(queries, gallery, right)


def test_a_constant_model_gets_the_first_item_right_and_no_other() -> None:
    same = np.ones((4, 3), np.float32)
    assert ranks.first_hits(same, same, np.arange(4), np.arange(4)).tolist() == [0, 1, 2, 3]


def test_top_gives_the_most_similar_first() -> None:
    gallery = np.eye(3, dtype=np.float32)
    best, cosines = ranks.top(np.array([[0.1, 0.9, 0.5]], np.float32), gallery, 2)
    assert best.tolist() == [[1, 2]]
    assert cosines[0].tolist() == pytest.approx([0.9, 0.5])
    assert ranks.top(gallery, gallery, 9)[0].shape == (3, 3)
