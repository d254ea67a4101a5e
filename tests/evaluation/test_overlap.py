from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from cliploom.evaluation import overlap


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
