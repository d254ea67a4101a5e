"""A search that goes on, with the settings that it was begun with or with others."""

from __future__ import annotations

from pathlib import Path

import pytest

import pairs
from cliploom import config
from cliploom.data import manifest
from cliploom.errors import InputError
from cliploom.search import run as searches


def planned(folder: Path, *settings: str) -> searches.Search:
    base = [
        *("run.name=first", f"run.storage={folder}", f"data.manifest={folder / 'pairs'}", "model.name=ViT-mu-8-32"),
        *("train.global_batch_size=16", "train.samples=32", "tune.held_out_shards=1"),
        "tune.space={train.weight_decay: [0.1, 0.2]}",
    ]
    return searches.plan(config.load(None, [*base, *settings]))


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a search whose first trial has begun."""
    pairs.write(tmp_path / "pairs", samples=20)
    planned(tmp_path).records.propose(0, lambda: {"train.weight_decay": 0.1})
    return tmp_path


@pytest.mark.parametrize(
    "setting",
    [
        *("tune.held_out_shards=2", "tune.seed=1", "tune.evaluations=2", "tune.space={train.weight_decay: [0.1, 0.3]}"),
        *("model.name=ViT-Ti-8-64", "train.samples=64", "train.learning_rate=0.1", "data.window_shards=1"),
    ],
)
def test_what_decides_trials_stays_as_it_was(begun: Path, setting: str) -> None:
    key = setting.split("=")[0]
    with pytest.raises(InputError, match=f"search first was begun with {key}=.*, not .*: set that again, or give"):
        planned(begun, setting)
    planned(begun)


def test_what_adds_or_places_trials_may_change(begun: Path) -> None:
    search = planned(begun, "tune.trials=40", "tune.concurrent=2", "train.workers=2", "train.micro_batch_size=4")
    assert search.total == 40


def test_other_pairs_at_the_same_place_are_refused(begun: Path) -> None:
    pairs.write(begun / "pairs", samples=21)
    with pytest.raises(InputError, match=r"was begun with data\.manifest="):
        planned(begun)


def test_other_held_out_pairs_are_refused(begun: Path) -> None:
    for name, samples in (("some", 20), ("others", 21)):
        pairs.write(begun / name, shards=2, samples=samples)
    held_out = ["run.name=second", "tune.held_out_shards=null"]
    planned(begun, *held_out, f"tune.held_out={begun / 'some'}").records.propose(0, dict)
    planned(begun, *held_out, f"tune.held_out={begun / 'some' / 'manifest.parquet'}")  # the same, said in other words
    with pytest.raises(InputError, match=r"was begun with tune\.held_out="):
        planned(begun, *held_out, f"tune.held_out={begun / 'others'}")


def test_a_plan_without_a_trial_binds_nobody(tmp_path: Path) -> None:
    """Of dry runs, the last is what the search is."""
    pairs.write(tmp_path / "pairs", samples=20)
    for count in (1, 2):
        search = planned(tmp_path, f"tune.held_out_shards={count}")
        assert len(manifest.load(search.training.held_out).shards) == count
        assert len(manifest.load(str(search.config.data.manifest)).shards) == 4 - count
