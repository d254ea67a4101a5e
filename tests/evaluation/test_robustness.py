from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import linregress

from cliploom.errors import InputError
from cliploom.evaluation import robustness
from cliploom.evaluation.intervals import Estimate, share


@given(
    st.lists(st.tuples(st.floats(0.02, 0.98), st.floats(0.02, 0.98)), min_size=3, max_size=20, unique_by=lambda p: p[0])
)
def test_the_line_is_scipys_through_logits(pairs: list[tuple[float, float]]) -> None:
    base, shift = zip(*pairs, strict=True)
    if np.ptp(logit(base)) < 1e-3:
        return
    expected = linregress(logit(base), logit(shift))
    found = robustness.fit(base, shift)
    assert (found.slope, found.intercept) == pytest.approx((expected.slope, expected.intercept), rel=1e-6, abs=1e-6)
    assert found.expected(0.7) == pytest.approx(expit(expected.intercept + expected.slope * logit(0.7)), abs=1e-9)


def test_a_model_on_the_line_has_no_effective_robustness() -> None:
    base = np.array([0.5, 0.6, 0.7, 0.8])
    line = robustness.fit(base.tolist(), expit(0.9 * logit(base) - 0.8).tolist())
    at = line.expected(0.65)
    hits = np.arange(1000) < 650
    on_line = robustness.effective(share(hits), Estimate(at, at - 0.02, at + 0.02), line)
    assert on_line.value == pytest.approx(0)
    assert on_line.low < 0 < on_line.high
    above = robustness.effective(share(hits), Estimate(at + 0.2, at + 0.18, at + 0.22), line)
    assert above.value == pytest.approx(0.2)
    assert above.low > 0


def test_intervals_cover_the_truth_in_about_95_of_100_draws() -> None:
    """Reference models scatter about a line; a model that has none of its own is measured on 1,000 samples each."""
    random = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        base = random.uniform(0.4, 0.9, 25)
        line = robustness.fit(base.tolist(), expit(logit(base) - 1 + random.normal(0, 0.2, 25)).tolist())
        one, other = (share(random.random(1000) < rate) for rate in (0.75, float(expit(logit(0.75) - 1)) + 0.1))
        found = robustness.effective(one, other, line)
        covered.append(found.low <= 0.1 <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_classes_are_grouped_by_name_and_scores_pooled_by_the_highest() -> None:
    base = ["Cat", "tabby", "dog", "car"]
    grouped = robustness.groups(base, [("dog",), ("cat", "Tabby")])
    assert [group.tolist() for group in grouped] == [[2], [0, 1]]
    scores = np.array([[0.1, 0.9, 0.5, 7.0], [0.3, 0.2, 0.4, 0.0]])
    assert robustness.pooled(scores, grouped).tolist() == [[0.5, 0.9], [0.4, 0.3]]
    used, group = robustness.restricted(np.array([3, 0, 2, 1, 3]), grouped)
    assert used.tolist() == [False, True, True, True, False]
    assert group.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="has no class bus"):
        robustness.groups(base, [("bus",)])
    with pytest.raises(ValueError, match="class cat that two classes stand for"):
        robustness.groups(base, [("Cat",), ("cat",)])


def test_the_mean_of_shifts_has_a_smaller_interval() -> None:
    found = robustness.mean([Estimate(0.1, 0.05, 0.15), Estimate(0.3, 0.25, 0.35)])
    assert found == pytest.approx((0.2, 0.2 - 0.05 / np.sqrt(2), 0.2 + 0.05 / np.sqrt(2)))


def test_reference_models_come_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    path.write_text("model,a,b,a/b\nx,0.5,0.3,0.6\ny,0.6,0.4,0.7\nz,0.7,0.5,0.8\nw,0.9,,\n")
    known = robustness.read(str(path))
    for whole in (True, False):
        line = robustness.line_of(known, "a", "b", whole)
        assert line is not None
        assert line.points == ((0.6, 0.3), (0.7, 0.4), (0.8, 0.5)), "on the shift's classes where the file has that"
    assert robustness.line_of(known, "a", "c", True) is None


def test_accuracy_on_all_of_the_base_counts_where_the_shift_has_all_of_its_classes(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    path.write_text("model,a,b,a/b\nx,0.5,0.3,0.6\ny,0.6,0.4,0.7\nz,0.7,0.5,0.8\nw,0.9,0.6,\n")
    known = robustness.read(str(path))
    parted, whole = (robustness.line_of(known, "a", "b", whole) for whole in (False, True))
    assert parted is not None
    assert whole is not None
    assert set(whole.points) - set(parted.points) == {(0.9, 0.6)}
    path.write_text("model,a,b\nx,0.5,0.3\ny,0.6,0.4\nz,0.7,0.5\n")
    assert robustness.line_of(robustness.read(str(path)), "a", "b", False) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "evaluate.references: there is no"),
        ("name,a\nx,1\n", "has no column `model`"),
        ("model,a\nx,76.2\n", "has '76.2' for x on a; it should be between 0 and 1"),
        ("model,a\nx,high\n", "has 'high' for x on a"),
    ],
)
def test_wrong_tables_are_answered_in_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "models.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        robustness.read(str(path))
    assert "\n" not in str(error.value)
