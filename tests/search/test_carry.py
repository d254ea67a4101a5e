"""The rules that carry settings to a larger model, against the paper's own tables."""

from __future__ import annotations

import pytest
import yaml

from cliploom import config
from cliploom.search.carry import carry, config_file
from cliploom.search.trial import trial_config

SEARCH = [
    "run.name=small",
    "data.manifest=pairs",
    "model.name=RN50",
    "train.samples=1000000",
    "train.warmup_samples=20000",
    "train.global_batch_size=1024",
]


def searched(*settings: str) -> config.Config:
    return config.load(None, [*SEARCH, *settings])


@pytest.mark.parametrize(("model", "rate"), [("RN50x16", 4e-4), ("RN50x64", 3.6e-4)])
def test_the_rate_of_the_papers_larger_models_follows_from_that_of_its_smallest(model: str, rate: float) -> None:
    """Tables 19 and 20: 5e-4 for RN50; 4e-4 of RN50x16 within a tenth, 3.6e-4 of RN50x64, which the rule is made of."""
    rows = {row.key: row for row in carry(searched(f"tune.carry={{model: {model}}}"), {"train.learning_rate": 5e-4})}
    assert rows["train.learning_rate"].carried == pytest.approx(rate, rel=0.02 if model == "RN50x64" else 0.1)
    assert "the paper's ResNets" in rows["train.learning_rate"].rule


def test_the_same_model_and_batch_leave_everything_as_it_was() -> None:
    found = {"train.learning_rate": 1e-3, "train.weight_decay": 0.3}
    rows = {row.key: row for row in carry(searched("tune.carry={model: RN50}"), found)}
    assert rows["train.learning_rate"].carried == 1e-3
    assert rows["train.weight_decay"].carried == 0.3
    assert rows["train.global_batch_size"].carried == 1024


def test_what_is_carried_is_a_config_that_train_reads(tmp_path: object) -> None:
    base = searched("tune.carry={model: RN50x4, samples: 4000000, global_batch_size: 4096}")
    rows = carry(base, {"train.learning_rate": 1e-3, "train.beta2": 0.95})
    text = config_file(base, rows)
    tree = yaml.safe_load(text)
    made = config.Config.model_validate(tree)
    assert (made.model.name, made.train.samples, made.train.warmup_samples) == ("RN50x4", 4_000_000, 80_000)
    assert (made.train.global_batch_size, made.train.beta2) == (4096, 0.95)
    assert made.train.learning_rate == pytest.approx(2e-3 * (21.5 / 6.1) ** -0.087, rel=0.03)
    assert made.run.name == "small-carried"
    assert "tune" not in tree
    for row in rows:
        assert f"# {row.key}: " in text


def test_a_trials_budget_takes_the_place_of_the_searchs() -> None:
    base = config.load(None, ["train.epochs=2"])
    assert (trial_config(base, {"train.samples": 100}).train.samples, base.train.epochs) == (100, 2)
    assert trial_config(base, {"train.samples": 100}).train.epochs is None
