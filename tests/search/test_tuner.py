"""What Ray Tune is told of trials."""

from __future__ import annotations

from pathlib import Path

from cliploom.search import tuner
from cliploom.search.records import Branch, Records

RATE = "train.learning_rate"


def test_a_search_that_goes_on_perturbs_the_settings_that_a_copied_trial_trains_with(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    for number in range(2):
        assert tuner._given(number, lambda n: {RATE: 0.1 * n}, records)["settings"] == {RATE: 0.1 * number}
    records.begin_branch(0, Branch(1, {RATE: 0.12}, (1, 0, 5)))
    assert tuner._given(0, lambda n: {RATE: 0.5}, records) == {"number": 0, "settings": {RATE: 0.12}}
    assert tuner._given(1, lambda n: {RATE: 0.5}, records) == {"number": 1, "settings": {RATE: 0.1}}
