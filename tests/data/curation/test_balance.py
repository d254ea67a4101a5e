"""The balance against a plain program in memory, for any partition of the pairs."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from cliploom.data.curation import balance as module
from cliploom.data.curation.balance import Tables, balance, count
from cliploom.data.curation.facts import KEPT, RULE, Facts, Pass, Slice
from cliploom.data.curation.matching import Queries

QUERIES = Queries([f"q{n}" for n in range(6)])
ABOVE = RULE["above the limit of its queries"]


class Pair(NamedTuple):
    content: int
    queries: tuple[int, ...]
    dropped: bool  # by an earlier rule


def queries_of(content: int) -> tuple[int, ...]:
    """Pairs of the same content contain the same queries."""
    chosen = oracle.splitmix([content])
    return tuple(n for n in range(len(QUERIES)) if chosen >> n & 1) or (content % len(QUERIES),)


pairs = st.builds(
    lambda content, dropped: Pair(content, queries_of(content), dropped),
    st.integers(0, 25),
    st.integers(0, 5).map(bool),
)
data_sets = st.lists(st.builds(lambda pair: pair._replace(dropped=not pair.dropped), pairs), max_size=60)


def plainly(data: list[Pair], per_query: int, seed: int) -> list[bool]:
    """Which pairs are kept: for each query the first by hash, and of equals by place."""
    hashes = QUERIES.hashes().tolist()
    kept = set()
    for query in range(len(QUERIES)):
        order = [
            (oracle.splitmix([oracle.splitmix([seed, *words(pair.content)]), hashes[query]]), place)
            for place, pair in enumerate(data)
            if query in pair.queries and not pair.dropped
        ]
        kept |= {place for _, place in sorted(order)[:per_query]}
    return [place in kept for place in range(len(data))]


def words(content: int) -> tuple[int, int, int, int]:
    return content, 0, content * 7, 1


def facts(data: list[Pair]) -> Facts:
    digests = np.array([words(pair.content) for pair in data], dtype=np.uint64).reshape(-1, 4)
    return Facts(
        rule=np.array([ABOVE - 1 if pair.dropped else KEPT for pair in data], dtype=np.uint8),
        caption=digests[:, :2],
        image=digests[:, 2:],
        phash=np.zeros(len(data), dtype=np.uint64),
        starts=np.cumsum([0, *(len(pair.queries) for pair in data)]).astype(np.int64),
        queries=np.array([query for pair in data for query in pair.queries], dtype=np.int32),
    )


def passes(folder: Path, data: list[Pair], cuts: list[int], verdicts: np.ndarray) -> Pass:
    """Passes over the pairs in blocks that end at `cuts`."""
    spans = list(itertools.pairwise(sorted({0, len(data), *cuts})))
    for number, (start, stop) in enumerate(spans):
        facts(data[start:stop]).save(str(folder / f"{number}.npz"))

    def over(_: str, function: Callable[[Slice], Any]) -> Iterator[tuple[Slice, Any]]:
        for number, (start, stop) in enumerate(spans):
            item = Slice(str(folder / f"{number}.npz"), start, verdicts[start:stop].copy())
            yield item, function(item)

    return over


def balanced(data: list[Pair], cuts: list[int], per_query: int, seed: int) -> tuple[list[bool], list[int], list[int]]:
    """Which pairs are kept, and how many pairs contained each query before and after."""
    with tempfile.TemporaryDirectory() as folder:
        QUERIES.save(f"{folder}/queries.txt")
        verdicts = np.array([ABOVE - 1 if pair.dropped else KEPT for pair in data], dtype=np.uint8)
        over = passes(Path(folder), data, cuts, verdicts)
        before = balance(over, Tables(f"{folder}/queries.txt", folder, seed), per_query, verdicts)
        after = count(over, len(QUERIES))
    assert all((verdict == ABOVE - 1) == pair.dropped for verdict, pair in zip(verdicts, data, strict=True))
    return (verdicts == KEPT).tolist(), before.tolist(), after.tolist()


@given(data_sets, st.lists(st.integers(0, 60), max_size=5), st.integers(1, 12), st.integers(0, 2**63 - 1))
@settings(max_examples=50)
def test_it_keeps_what_the_plain_program_keeps(data: list[Pair], cuts: list[int], per_query: int, seed: int) -> None:
    kept, before, after = balanced(data, [cut for cut in cuts if cut < len(data)], per_query, seed)
    assert kept == plainly(data, per_query, seed)
    alive = [pair for pair in data if not pair.dropped]
    assert before == [sum(query in pair.queries for pair in alive) for query in range(len(QUERIES))]
    staying = [pair for pair, stays in zip(data, kept, strict=True) if stays]
    assert after == [sum(query in pair.queries for pair in staying) for query in range(len(QUERIES))]
    assert all(b >= a >= min(b, per_query) for a, b in zip(after, before, strict=True))


@given(data_sets, st.integers(1, 12), st.permutations(range(60)))
@settings(max_examples=30)
def test_the_order_of_the_pairs_does_not_change_what_is_kept(
    data: list[Pair], per_query: int, order: list[int]
) -> None:
    moved = [data[place] for place in order if place < len(data)]
    one, *numbers = balanced(data, [], per_query, seed=3)
    other, *same = balanced(moved, [len(data) // 2] if data else [], per_query, seed=3)
    assert Counter(itertools.compress(data, one)) == Counter(itertools.compress(moved, other))
    assert numbers == same


@pytest.mark.parametrize(("digit", "cells"), [(1, 1 << 24), (8, 8), (3, 64)])
def test_however_fine_the_search_the_limits_are_the_same(
    digit: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few bits at once, as with many queries above their limits, and as deep as equal hashes need."""
    data = [Pair(content, queries_of(content), False) for content in [*range(40), *[5] * 30, *[6] * 3]]
    monkeypatch.setattr(module, "_DIGIT_BITS", digit)
    monkeypatch.setattr(module, "_MOST_CELLS", cells)
    for per_query in (1, 7, 20):
        assert balanced(data, [11, 60], per_query, seed=0)[0] == plainly(data, per_query, seed=0)


def test_another_seed_keeps_others() -> None:
    data = [Pair(content, (0,), False) for content in range(60)]
    assert balanced(data, [], 10, seed=0)[0] != balanced(data, [], 10, seed=1)[0]
