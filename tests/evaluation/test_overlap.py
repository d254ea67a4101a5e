from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from cliploom.evaluation import overlap
from cliploom.evaluation.duplicates import nearest
from cliploom.evaluation.store import Features


@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.floats(0.05, 0.95))
def test_figures_are_those_of_the_formulas(seed: int, samples: int, part: float) -> None:
    random = np.random.default_rng(seed)
    right, same = random.random(samples) < 0.6, random.random(samples) < part
    same[:2] = [True, False]
    found = overlap.analyse("x", right, same)
    hits, count = int(right[same].sum()), int(same.sum())
    assert found.overlap is not None
    assert found.clean is not None
    assert found.gain is not None
    assert found.overlap.value == pytest.approx(hits / count)
    assert found.overlap.low == pytest.approx(beta.ppf(0.0025, hits, count - hits + 1) if hits else 0, abs=1e-6)
    assert found.overlap.high == pytest.approx(
        beta.ppf(0.9975, hits + 1, count - hits) if hits < count else 1, abs=1e-6
    )
    assert found.p == pytest.approx(binom.sf(hits - 1, count, right[~same].mean()), abs=1e-9)
    mixed = found.share * found.overlap.value + (1 - found.share) * found.clean
    assert found.all == pytest.approx(mixed)
    assert found.gain == pytest.approx(found.share * (found.overlap.value - found.clean))


def test_p_is_corrected_for_the_data_sets_that_were_tested() -> None:
    right = np.arange(100) < 60
    some, none, everything = (
        overlap.analyse(n, right, np.arange(100) < k) for n, k in (("a", 30), ("b", 0), ("c", 100))
    )
    assert none.overlap is None
    assert none.p is None
    assert everything.clean is None
    assert everything.gain is None
    found = overlap.bonferroni([some, some, none, everything])
    assert some.p is not None
    assert [one.corrected for one in found] == [pytest.approx(2 * some.p), pytest.approx(2 * some.p), None, None]
    chance = overlap.analyse("d", np.arange(100) % 2 == 0, np.arange(100) < 50)
    assert overlap.bonferroni([chance] * 5)[0].corrected == 1


def _features(random: np.random.Generator, count: int) -> Features:
    images = random.normal(size=(count, 8)).astype(np.float32)
    return Features(
        keys=np.array([f"{n}" for n in range(count)]),
        labels=np.array(["0"] * count),
        causes=np.array([""] * count, np.dtype("U9")),
        images=images / np.linalg.norm(images, axis=1, keepdims=True),
        hidden=images,
        hashes=random.integers(0, 2**63, count, np.uint64),
        captions=np.zeros(0, np.str_),
        owners=np.zeros(0, np.int64),
        texts=np.zeros((0, 8), np.float32),
        seconds=np.zeros(1),
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.lists(st.integers(1, 15), min_size=1, max_size=4))
def test_the_nearest_are_those_of_all_pairs(seed: int, count: int, shards: list[int]) -> None:
    random = np.random.default_rng(seed)
    test, training = _features(random, count), [_features(random, size) for size in shards]
    training[0].causes[0] = "no image"
    found = nearest(test, training)
    usable = [(s, n) for s, size in enumerate(shards) for n in range(size) if training[s].causes[n] == ""]
    if not usable:
        assert not found.duplicates(-0.5, 64).any()
        return
    cosines = np.stack([test.images @ training[s].images[n] for s, n in usable], 1)
    bits = np.array([[int(a ^ training[s].hashes[n]).bit_count() for s, n in usable] for a in test.hashes])
    np.testing.assert_allclose(found.cosine, cosines.max(1), atol=1e-6)
    assert found.distance.tolist() == bits.min(1).tolist()
    assert [tuple(place) for place in found.by_distance] == [usable[i] for i in bits.argmin(1)]
    same = (cosines.max(1) >= 0.5) | (bits.min(1) <= 25)
    assert found.duplicates(0.5, 25).tolist() == same.tolist()
