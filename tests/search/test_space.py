"""What is drawn from a space of settings, and by which rules."""

from __future__ import annotations

import numpy as np
import pytest

from cliploom.errors import InputError
from cliploom.search import space, tpe
from cliploom.settings.search import Span

SPACE: space.Space = {
    "train.learning_rate": Span(low=1e-4, high=1e-1, log=True),
    "train.warmup_samples": Span(low=10, high=13, whole=True),
    "train.beta2": [0.95, 0.98],
}


def test_a_trial_is_a_function_of_seed_and_number() -> None:
    assert space.draw(SPACE, 3, 7) == space.draw(SPACE, 3, 7)
    assert len({str(space.draw(SPACE, 3, number)) for number in range(50)}) == 50
    assert space.draw(SPACE, 4, 7) != space.draw(SPACE, 3, 7)


def test_draws_spread_as_the_space_says() -> None:
    drawn = [space.draw(SPACE, 0, number) for number in range(2000)]
    rates = np.array([float(one["train.learning_rate"]) for one in drawn])
    assert 1e-4 <= rates.min() < rates.max() < 1e-1
    assert np.median(np.log10(rates)) == pytest.approx(-2.5, abs=0.1)
    warmups, counts = np.unique([one["train.warmup_samples"] for one in drawn], return_counts=True)
    assert warmups.tolist() == [10, 11, 12, 13]
    assert counts.min() > 400
    assert {one["train.beta2"] for one in drawn} == {0.95, 0.98}


def test_whole_numbers_in_logarithms_reach_both_ends() -> None:
    span = Span(low=1, high=8, log=True, whole=True)
    assert {space.at(span, u) for u in np.linspace(0, 1, 1000, endpoint=False)} == set(range(1, 9))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"train.lerning_rate": [1.0]}, "no setting train.lerning_rate; did you mean train.learning_rate"),
        ({"train.beta2": []}, "train.beta2 has no choices"),
        ({"train.beta2": Span(low=1, high=0)}, "train.beta2 from 1.0 to 0.0 is no range"),
        ({"train.beta2": Span(low=0, high=1, log=True)}, "write numbers above 0"),
    ],
)
def test_what_is_no_space_is_refused(wrong: space.Space, said: str) -> None:
    with pytest.raises(InputError, match=said):
        space.check(wrong)


def test_tpe_draws_nearer_to_what_was_good_and_needs_nothing_but_the_records() -> None:
    def loss(settings: space.Settings) -> float:
        return abs(float(np.log10(float(settings["train.learning_rate"]))) + 2)

    known = [(one := space.draw(SPACE, 0, number), loss(one)) for number in range(20)]
    guided = [tpe.propose(SPACE, 0, number, known) for number in range(20, 40)]
    assert guided[0] == tpe.propose(SPACE, 0, 20, known)
    assert np.mean([loss(one) for one in guided]) < 0.6 * np.mean([value for _, value in known])
    assert tpe.propose(SPACE, 0, 1, known[:2]) == space.draw(SPACE, 0, 1)
