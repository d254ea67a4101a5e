"""Duplicates and near-duplicates against a comparison of all with all."""

from __future__ import annotations

import functools
import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliploom.data.curation import hamming, similar, spill
from cliploom.data.curation.facts import KEPT
from cliploom.data.curation.similar import ROW, drop_similar

RULE = 9
# Few centres and few flips, so that much is nearly alike.
near_codes = st.builds(
    lambda centre, flips: centre ^ functools.reduce(lambda a, bit: a ^ (1 << bit), flips, 0),
    st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]),
    st.lists(st.integers(0, 63), max_size=5),
)
code_lists = st.lists(near_codes, max_size=40)


def rows_of(codes: list[int], orders: list[int]) -> np.ndarray:
    rows = np.zeros(len(codes), dtype=ROW)
    rows["code"] = codes
    rows["key"] = np.array(codes, dtype=np.uint64)
    rows["order"] = orders
    rows["number"] = np.arange(len(codes))
    return rows


def plainly(codes: list[int], orders: list[int], distance: int) -> list[bool]:
    """Whether each is dropped: where a smaller one is near."""
    ranks = list(zip(orders, range(len(codes)), strict=True))
    return [
        any(ranks[b] < ranks[a] and (codes[a] ^ codes[b]).bit_count() <= distance for b in range(len(codes)))
        for a in range(len(codes))
    ]


@given(code_lists, st.data(), st.integers(0, 5), st.integers(1, 7))
@settings(max_examples=60)
def test_it_drops_what_is_near_a_smaller_one(
    codes: list[int], data: st.DataObject, distance: int, at_once: int
) -> None:
    orders = data.draw(st.lists(st.integers(0, 10), min_size=len(codes), max_size=len(codes)))
    arrival = data.draw(st.permutations(range(len(codes))))
    rows = rows_of(codes, orders)[list(arrival)]
    verdicts = np.full(len(codes), KEPT, dtype=np.uint8)
    parts = (rows[start : start + 3] for start in range(0, len(rows), 3))
    with pytest.MonkeyPatch.context() as patch:  # several buckets, and several reads
        patch.setattr(spill, "_BUCKET_ROWS", 5)
        patch.setattr(similar, "_AT_ONCE", at_once)
        if distance:
            near = functools.partial(hamming.near, distance=distance)
            drop_similar(parts, functools.partial(hamming.tables, distance=distance), near, RULE, verdicts)
        else:
            drop_similar(parts, lambda _: [lambda part: part["key"]], None, RULE, verdicts)
    assert (verdicts == RULE).tolist() == plainly(codes, orders, distance)
    left = [code for code, verdict in zip(codes, verdicts, strict=True) if verdict == KEPT]
    assert all((a ^ b).bit_count() > distance for a, b in itertools.combinations(left, 2))
    assert bool(left) == bool(codes)


def test_equal_keys_of_unequal_codes_are_no_duplicates() -> None:
    rows = rows_of([1, 2, 1], [0, 1, 2])
    rows["key"] = 7
    verdicts = np.zeros(3, dtype=np.uint8)
    drop_similar(iter([rows]), lambda _: [lambda part: part["key"]], None, RULE, verdicts)
    assert verdicts.tolist() == [KEPT, KEPT, RULE]


@pytest.mark.parametrize("distance", range(9))
@pytest.mark.parametrize("count", [2, 10**6, 10**9])
def test_any_two_codes_within_the_distance_share_a_key(count: int, distance: int) -> None:
    tables = hamming.tables(count, distance)
    random_ = random.Random(distance)
    codes = [random_.getrandbits(64) for _ in range(300)]
    flipped = [functools.reduce(lambda a, bit: a ^ (1 << bit), random_.sample(range(64), distance), c) for c in codes]
    one, other = rows_of(codes, codes), rows_of(flipped, codes)
    assert np.any([table(one) == table(other) for table in tables], axis=0).all()
    assert hamming.near(one, other, distance).all()
    assert not distance or not hamming.near(one, other, distance - 1).any()


def test_longer_keys_for_more_codes() -> None:
    assert len(hamming.tables(1000, 4)) < len(hamming.tables(10**8, 4))
