"""What the job `evaluate` measures models on, one after the other, and what it calls those that are not registered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs import evaluate

import evaluation_sets as sets
from cliploom import config as configs
from cliploom import registry
from cliploom.evaluation import suite as suites

MODEL = "pictures"


def test_a_shard_that_is_replaced_between_two_versions_counts_as_new(
    uri: str, register: Callable[..., registry.Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(b"one")
    register(b"other")
    sets.classification(tmp_path / "colours", samples=8, shards=1)
    (tmp_path / "small.yaml").write_text("- {dataset: colours, tasks: [zeroshot_classification]}\n")
    digests = []

    def measured(_: configs.Config, suite: object, opened: list[Any], *more: object) -> None:
        digests.append(opened[0].shards[0].digest)
        sets.classification(tmp_path / "colours", samples=12, shards=1)

    monkeypatch.setattr(evaluate, "_evaluate", measured)
    config = configs.load(None, [f"evaluate.root={tmp_path}"])
    assert evaluate._pending(config, suites.load(str(tmp_path / "small.yaml")), uri, MODEL) == 2
    assert len(set(digests)) == 2


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("models/ViT-B-32.pt", "ViT-B-32"),
        ("models/ours.safetensors", "ours"),
        ("A/open_clip_model.safetensors", "A"),
        ("s3://team/B/open_clip_model.safetensors", "B"),
        ("runs/first", "first"),
        ("runs/first/export/", "first"),
        ("runs/second/export/weights.safetensors", "second"),
        ("model.safetensors", "here"),
    ],
)
def test_a_model_is_called_by_what_tells_it_from_others(
    given: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert evaluate._title(given) == name
