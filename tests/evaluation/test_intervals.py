from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cliploom.evaluation.intervals import share, wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_plain_share_has_the_interval_of_scipys_wilson(counts: tuple[int, int]) -> None:
    hits, samples = counts
    expected = binomtest(hits, samples).proportion_ci(method="wilson")
    found = share(np.arange(samples) < hits)
    assert found == pytest.approx((hits / samples, expected.low, expected.high), abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 5))
def test_copies_of_samples_in_clusters_tell_nothing_new(hits: list[bool], copies: int) -> None:
    repeated, clusters = np.repeat(hits, copies), np.repeat(np.arange(len(hits)), copies)
    assert share(repeated, clusters=clusters) == pytest.approx(share(hits))


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 10)), min_size=1, max_size=60))
def test_interval_holds_the_weighted_mean_and_stays_between_0_and_1(samples: list[tuple[bool, float]]) -> None:
    hits, weights = zip(*samples, strict=True)
    found = share(hits, weights)
    assert found.value == pytest.approx(np.average(hits, weights=weights))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0


def test_effective_size_is_never_above_the_number_of_samples() -> None:
    hits = np.tile([True, False], 50)
    found = share(hits, clusters=np.repeat(np.arange(50), 2))  # each cluster has just the mean
    assert found == pytest.approx(wilson(0.5, 100))


@pytest.mark.parametrize("kind", ["clusters", "classes"])
def test_intervals_cover_the_truth_in_about_95_of_100_draws(kind: str) -> None:
    """Clusters whose members mostly agree; classes of unequal size and difficulty, each weighing the same."""
    random = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        if kind == "clusters":
            numbers = np.repeat(np.arange(200), 5)
            hits = random.random(1000) < random.beta(0.6, 1.4, 200)[numbers]
            found, truth = share(hits, clusters=numbers), 0.3
        else:
            sizes = np.repeat([5, 50], 20)
            rates = np.linspace(0.1, 0.9, 40)
            numbers = np.repeat(np.arange(40), sizes)
            found, truth = share(random.random(len(numbers)) < rates[numbers], 1 / sizes[numbers]), 0.5
        covered.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.995
    if kind == "clusters":  # as if the captions of an image were independent, it would be far from 95 of 100
        plain = wilson(0.3, 1000)
        assert plain.high - plain.low < 0.7 * (found.high - found.low)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        share([])
