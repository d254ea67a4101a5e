"""What a trial does at a checkpoint of its run."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest

import pairs
from cliploom import config, objectives
from cliploom.errors import InputError
from cliploom.search import measuring
from cliploom.search.records import Measured
from cliploom.search.trial import Training, _Watch


def test_a_loss_that_is_no_number_ends_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is said of settings that make no run: such a trial has failed, and is not tried again."""
    uri = pairs.write(tmp_path / "pairs", shards=1)
    base = ["run.name=first", f"run.storage={tmp_path}", f"data.manifest={uri}", "model.name=ViT-mu-8-32"]
    size = ["train.global_batch_size=8", "train.samples=16", "tune.held_out_batch=8", "tune.held_out_batches=1"]
    training = Training(config.load(None, [*base, *size]), str(tmp_path), uri)
    run = training.run(0, {})
    state = objectives.create("contrastive", run.model, 0).state_dict()
    state["logit_scale"] = state["logit_scale"] * math.nan
    weights = {f"weight/{name}": value for name, value in state.items()}
    monkeypatch.setattr(measuring, "checkpoint_state", lambda run, step: weights)
    told: list[Measured] = []
    watch = _Watch(training, run, set(), told.append, threading.Event())
    watch({"checkpoint": run.steps})
    assert isinstance(watch.failure, InputError)
    assert str(watch.failure) == "the held-out loss is nan after 2 steps: lower train.learning_rate"
    assert told == []
