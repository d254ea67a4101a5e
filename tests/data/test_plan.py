"""The plan against the oracle, and the properties that make a run independent of how it is cut."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from cliploom.data.plan import DIGEST_RANGE, Part, Plan, digest, kept_patches, micro_batches, rank_span, work_items

shards = st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(any)
seeds = st.integers(0, 2**63 - 1)
windows = st.integers(1, 5)


@st.composite
def parts(draw: st.DrawFn) -> oracle.Part:
    """A manifest with a weight and a deny-list that leave at least a draw an epoch."""
    sizes = draw(shards)
    everything = [(shard, index) for shard, size in enumerate(sizes) for index in range(size)]
    kept = draw(st.sampled_from(everything))
    denied = draw(st.frozensets(st.sampled_from(everything))) - {kept}
    weight = draw(st.sampled_from([1.0, 2.0, 0.5]) | st.floats(0.05, 4))
    left = len(everything) - len(denied)
    return oracle.Part(sizes, max(weight, 0.6 / left), denied)


mixtures = st.lists(parts(), min_size=1, max_size=4)


def make(mixture: list[oracle.Part], seed: int, window: int) -> Plan:
    """The plan of what the oracle has as parts."""

    def denied(part: oracle.Part) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for shard, index in sorted(part.denied):
            found.setdefault(shard, []).append(index)
        return found

    return Plan([Part(part.shard_samples, part.weight, denied(part)) for part in mixture], seed, window)


def visits(plan: Plan, start: int, stop: int) -> list[oracle.Sample]:
    return [oracle.Sample(*map(int, sample)) for sample in zip(*plan.at(start, stop), strict=True)]


@given(mixtures, seeds, windows, st.integers(1, 30))
def test_batches_are_the_oracles_across_epochs(mixture: list[oracle.Part], seed: int, window: int, batch: int) -> None:
    plan = make(mixture, seed, window)
    count = 2 * plan.samples // batch + 2
    expected = oracle.global_batches(mixture, seed, window, batch, count)
    assert [visits(plan, g * batch, (g + 1) * batch) for g in range(count)] == expected


@given(shards, seeds, windows, st.integers(0, 3))
def test_an_epoch_has_every_sample_once(sizes: list[int], seed: int, window: int, epoch: int) -> None:
    plan = Plan([Part(sizes)], seed, window)
    seen = Counter(visits(plan, epoch * plan.samples, (epoch + 1) * plan.samples))
    assert seen == Counter(oracle.Sample(epoch, s, i) for s, size in enumerate(sizes) for i in range(size))


@given(mixtures, seeds, windows, st.data())
def test_samples_of_a_mixture_come_by_their_weights(
    mixture: list[oracle.Part], seed: int, window: int, data: st.DataObject
) -> None:
    """At every position; what is denied never comes, and no visit twice."""
    plan = make(mixture, seed, window)
    stop = data.draw(st.integers(1, 3 * plan.samples))
    seen = visits(plan, 0, stop)
    assert len(set(seen)) == stop
    counts = Counter((sample.shard, sample.index) for sample in seen)
    for part, first in zip(mixture, oracle.first_shards(mixture), strict=True):
        everything = {(s, i) for s, size in enumerate(part.shard_samples) for i in range(size)}
        times = [counts.pop((first + s, i), 0) for s, i in sorted(everything - part.denied)]
        assert max(times) - min(times) <= 1
        draws = round(part.weight * len(times))
        # An epoch's end is exact, and any place between within one turn's rounding and order.
        assert abs(sum(times) - draws * stop / plan.samples) < 65
        assert stop % plan.samples or sum(times) == draws * stop // plan.samples
    assert not counts


def test_small_batches_are_mixed_as_the_whole_is() -> None:
    plan = Plan([Part([980]), Part([50] * 2, weight=3.0)], seed=3, window_shards=2)
    assert plan.samples == 20 * 64
    of_second = [sum(sample.shard > 0 for sample in visits(plan, at, at + 64)) for at in range(0, 3 * 1280, 64)]
    assert {*of_second} == {15}


@given(mixtures, seeds, windows, st.data())
def test_any_cut_reads_the_same_samples(
    mixture: list[oracle.Part], seed: int, window: int, data: st.DataObject
) -> None:
    plan = make(mixture, seed, window)
    end = 3 * plan.samples
    cuts = sorted({0, end, *data.draw(st.lists(st.integers(0, end), max_size=6))})
    pieces = [visits(plan, a, b) for a, b in itertools.pairwise(cuts)]
    assert list(itertools.chain.from_iterable(pieces)) == visits(plan, 0, end)


def test_positions_far_on_are_as_near_ones() -> None:
    """A thousand epochs of billions of samples: nothing overflows, and nothing walks there."""
    sizes = np.full(300_000, 10_000)
    plan = Plan([Part(sizes), Part(sizes, 0.25)], seed=1, window_shards=4)
    start = 1000 * plan.samples - 5
    far = plan.at(start, start + 1000)
    assert set(far.epoch[:5].tolist()) <= {999, 249}
    assert set(far.epoch[5:].tolist()) == {1000, 250}
    assert abs(int((far.shard >= 300_000).sum()) - 200) <= 64


@given(st.lists(st.integers(1, 5), min_size=1, max_size=9), st.integers(0, 99), st.integers(1, 4))
def test_what_a_window_reads_is_named_during_the_one_before(sizes: list[int], seed: int, window: int) -> None:
    plan = Plan([Part(sizes)], seed, window)
    windows: list[tuple[list[int], set[int]]] = []  # positions, shards
    positions: list[int] = []
    shards: set[int] = set()
    for position, shard in enumerate(plan.at(0, 3 * sum(sizes)).shard.tolist()):
        positions.append(position)
        shards.add(shard)
        ends = len(shards) == window or (position + 1) % sum(sizes) == 0
        if ends and len(positions) == sum(sizes[number] for number in shards):
            windows.append((positions, shards))
            positions, shards = [], set()
    for (positions, _), (_, following) in itertools.pairwise(windows):
        assert all(set(plan.next_shards(position)) == following for position in positions)


def test_each_part_names_its_next_shards() -> None:
    plan = Plan([Part([4, 4]), Part([4, 4])], 0, 1)
    first, second = plan.next_shards(0)
    assert (first in (0, 1), second in (2, 3)) == (True, True)


@pytest.mark.parametrize("part", [Part([0, 0]), Part([2], denied={0: [0, 1]}), Part([10], weight=0.01)])
def test_a_part_that_is_never_drawn_is_refused(part: Part) -> None:
    with pytest.raises(ValueError, match="no draw of part 1"):
        Plan([Part([5]), part], 0, 1)


@given(st.integers(1, 200), st.data(), st.integers(1, 64), st.integers(0, 5))
def test_work_items_cover_each_batch_once_in_order(batch: int, data: st.DataObject, micro: int, first: int) -> None:
    world = data.draw(st.integers(1, batch))
    items = list(work_items(first, first + 2, batch, world, micro))
    count, rows = micro_batches(batch, world, micro)
    assert rows <= micro
    assert len(items) == 2 * world * count
    for step in (first, first + 1):
        for rank in range(world):
            own = [item for item in items if item.step == step and item.rank == rank]
            assert [item.micro for item in own] == list(range(count))
            positions = [p for item in own for p in range(item.start, item.stop)]
            start, stop = rank_span(batch, world, rank)
            assert positions == list(range(step * batch + start, step * batch + stop))
            assert all(item.stop - item.start <= item.rows == rows for item in own)
            # Only the end of a worker's rows is padding, so that its real rows are the first ones.
            assert all(a.stop - a.start == rows or b.start == b.stop for a, b in itertools.pairwise(own))


@given(st.integers(1, 500), st.data())
def test_rank_spans_are_contiguous_and_fair(batch: int, data: st.DataObject) -> None:
    world = data.draw(st.integers(1, batch))
    spans = [rank_span(batch, world, rank) for rank in range(world)]
    assert spans[0][0] == 0
    assert spans[-1][1] == batch
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert max(b - a for a, b in spans) - min(b - a for a, b in spans) <= 1


def test_more_workers_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="can't be cut for 5 workers"):
        rank_span(4, 5, 0)


@given(mixtures, seeds, windows, st.integers(0, 4))
@settings(max_examples=30)
def test_replacements_are_the_oracles(mixture: list[oracle.Part], seed: int, window: int, attempt: int) -> None:
    plan = make(mixture, seed, window)
    bad = visits(plan, plan.samples // 2, plan.samples // 2 + 1)[0]
    expected = oracle.replacement(mixture, seed, window, bad, attempt)
    assert plan.replacement(*bad, attempt) == (expected.shard, expected.index)


@given(seeds)
def test_epochs_differ_and_shards_are_spread_over_the_epoch(seed: int) -> None:
    plan = Plan([Part([50] * 40)], seed, 8)
    first, second = visits(plan, 0, 2000), visits(plan, 2000, 4000)
    assert [s[1:] for s in first] != [s[1:] for s in second]
    # A window of 8 shards: any 200 samples in a row come from several of them.
    assert len({sample.shard for sample in first[:200]}) >= 4


def test_a_sample_s_randomness_is_its_own() -> None:
    plan = Plan([Part([5, 5])], 1, 2)
    draws = {(e, s, i): plan.randomness(e, s, i).random() for e in range(3) for s in range(2) for i in range(5)}
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 1, 3] == Plan([Part([5, 5])], 1, 1).randomness(1, 1, 3).random()


def test_the_order_of_a_known_plan_stays() -> None:
    """A run that was begun by an older version goes on with the same batches: these values may never change."""
    plan = Plan([Part([3, 4, 5])], seed=7, window_shards=2)
    assert [sample[1:] for sample in visits(plan, 0, 6)] == [(1, 1), (1, 3), (1, 2), (0, 0), (1, 0), (0, 1)]
    assert plan.randomness(0, 1, 2).random(2).tolist() == [0.3259678951946161, 0.6273441729524653]


@given(st.integers(0, 2**31), st.integers(1, 40), st.data())
def test_kept_patches_are_a_function_of_the_visit_alone(seed: int, total: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, total))
    samples = np.array([[0, 1, 2], [1, 1, 2], [0, 1, 3], [0, 1, 2], [-1, -1, -1]])
    found = kept_patches(seed, samples, total, kept)
    assert found.shape == (5, kept)
    assert found.dtype == np.int64
    assert all(len(set(row)) == kept and 0 <= row[0] <= row[-1] < total and list(row) == sorted(row) for row in found)
    assert np.array_equal(found[0], found[3])
    assert np.array_equal(kept_patches(seed, samples[2:3], total, kept), found[2:3])


def test_every_patch_is_dropped_as_often_as_others() -> None:
    samples = np.array([[0, 0, index] for index in range(4000)])
    counts = np.bincount(kept_patches(3, samples, 16, 4).ravel(), minlength=16)
    assert counts.sum() == 16000
    assert np.abs(counts - 1000).max() < 150  # five standard deviations


@given(st.integers(1, 40), st.data())
def test_a_digest_tells_which_samples_stand_where_however_the_batch_is_cut(rows: int, data: st.DataObject) -> None:
    samples = np.array([data.draw(st.tuples(*[st.integers(0, 2**40)] * 3)) for _ in range(rows)], dtype=np.int64)
    cuts = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=5))})
    padding = np.full((2, 3), -1, dtype=np.int64)
    parts = [digest(np.concatenate([samples[a:b], padding]), a) for a, b in itertools.pairwise(cuts)]
    whole = digest(samples, 0)
    assert sum(parts) % DIGEST_RANGE == whole
    assert int(float(whole)) == whole
    other = samples.copy()
    other[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, 2))] += 1
    assert digest(other, 0) != whole
    if not np.array_equal(samples, samples[::-1]):
        assert digest(samples[::-1], 0) != whole
