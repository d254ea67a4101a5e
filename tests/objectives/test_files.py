"""Networks of all objectives, saved and loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cliploom
import toys
from cliploom import objectives
from cliploom.errors import InputError
from cliploom.models import weights


@pytest.mark.parametrize("objective", list(objectives.OBJECTIVES))
def test_a_network_is_loaded_as_it_was_saved(objective: str, tmp_path: Path) -> None:
    network = objectives.create(objective, toys.config(toys.RESNET), 3, toys.ngrams())
    objectives.save_state(objective, network.state_dict(), network.config, tmp_path)  # type: ignore[arg-type]
    again = objectives.load(tmp_path)
    assert type(again) is type(network)
    length = toys.LENGTH  # which weights without a text transformer do not tell
    assert replace(again.config, context_length=length) == network.config  # type: ignore[type-var]
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)
    images, tokens = toys.pictures(2, network.config, torch.float32), toys.texts(2)  # type: ignore[arg-type]
    scores = (objectives.score(each.eval(), images, tokens) for each in (network, again))
    assert torch.equal(*scores)


@pytest.mark.parametrize("objective", toys.BASELINES)
def test_clip_s_readers_refuse_a_baseline_with_one_line(objective: str, tmp_path: Path) -> None:
    network = toys.network(objective, dtype=torch.float32)
    objectives.save_state(objective, network.state_dict(), network.config, tmp_path)
    for path in (tmp_path, tmp_path / weights.WEIGHTS):
        with pytest.raises(InputError, match=f"objective {objective}, which has no text embeddings"):
            weights.load(path)
    with pytest.raises(InputError, match=f"objective {objective}, which has no text embeddings"):
        cliploom.load(str(tmp_path))


@pytest.mark.parametrize("objective", toys.BASELINES)
def test_wrong_folders_are_refused(objective: str, tmp_path: Path) -> None:
    network = toys.network(objective, dtype=torch.float32)
    state, file = network.state_dict(), tmp_path / weights.CONFIG

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            objectives.load(tmp_path)

    objectives.save_state(
        objective, {n: t for n, t in state.items() if n != "visual.ln_pre.bias"}, network.config, tmp_path
    )
    refused(r"visual\.ln_pre\.bias is missing")
    objectives.save_state(objective, {**state, "other": torch.zeros(1)}, network.config, tmp_path)
    refused("other is no part of the model")
    objectives.save_state(objective, state, network.config, tmp_path)
    config = json.loads(file.read_text())
    for changes, message in (
        ({"objective": "guessing"}, "no objective is called guessing"),
        ({"format_version": 9}, "format version 9"),
        ({"model": {}}, "lacks embed_dim"),
        ({"model": "big"}, "lacks|no mapping"),
    ):
        file.write_text(json.dumps(config | changes))
        refused(message)
    file.write_text("{")
    refused("can't be read")
    file.write_text(json.dumps(config))
    (tmp_path / weights.WEIGHTS).write_bytes(b"nothing")
    refused(r"weights\.safetensors")
