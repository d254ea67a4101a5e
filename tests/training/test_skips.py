"""Steps that are not finite, in the whole loop: nothing of them is left, and what was decided once is kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import pairs
import processes
import runs
from cliploom import config as configs
from cliploom.data.reader import reader
from cliploom.errors import InputError
from cliploom.objectives import GlobalLoss, Ranks
from cliploom.training.run import plan_run

pytestmark = pytest.mark.integration
Kind = Literal["loss", "gradient"]


def train(config: str, breaks: dict[int, Kind]) -> dict[str, Any]:
    """Take the run's next attempt, some of whose steps are broken on the last rank; what came of it."""
    rows: list[dict[str, Any]] = []
    loop, batches = runs.loop_of(plan_run(configs.load(config, [])), rows)
    true_loss = loop.objective.loss
    same = []

    def loss(columns: Sequence[Tensor], shared: Tensor, ranks: Ranks) -> GlobalLoss:
        found = true_loss(columns, shared, ranks)
        match breaks.get(loop.step):
            case "loss":
                return found._replace(value=found.value * torch.nan)
            case "gradient" if dist.get_rank() == dist.get_world_size() - 1:
                found.rows[0][0, 0] = torch.inf
        return found

    take = loop._take_step

    def watched(given: Any) -> dict[str, float]:
        before = loop.engine.snapshot()
        number, taken = loop.step, take(given)
        after = loop.engine.snapshot()
        if number in breaks:
            same.append(all(torch.equal(before[key], after[key]) for key in before))
        return taken

    loop.objective = dataclasses.replace(loop.objective, loss=loss)
    loop._take_step = watched  # type: ignore[method-assign, assignment]
    try:
        done, error = loop.train(batches), ""
        if done:
            loop.export()
    except InputError as stopped:
        done, error = False, str(stopped)
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    return {"done": done, "error": error, "same": same, "losses": losses, "skips": loop.skips.known}


def train_all(todo: list[tuple[str, dict[int, Kind]]]) -> list[dict[str, Any]]:
    return [train(*arguments) for arguments in todo]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return pairs.write(tmp_path, several=True)


def configured(folder: Path, shards: str, name: str, **train: object) -> str:
    settings = {"samples": 6 * runs.BATCH, "checkpoint_steps": 2, "keep_checkpoints": 9, **train}
    return str(runs.write_config(folder, shards, name, **settings))


def test_a_skipped_step_leaves_nothing_and_is_skipped_again(tmp_path: Path, shards: str) -> None:
    """At every stage. The second attempt, from step 2, finds nothing wrong with what the first one skipped."""
    found = [configured(tmp_path, shards, f"stage-{stage}", zero_stage=stage) for stage in range(4)]
    first = processes.run(2, train_all, [(config, {2: "loss", 4: "gradient"}) for config in found])
    weights = [runs.weights(tmp_path, f"stage-{stage}") for stage in range(4)]
    for stage in range(4):
        for folder in (tmp_path / f"stage-{stage}" / "checkpoints").iterdir():
            if not folder.name.startswith("00000002"):
                shutil.rmtree(folder)
    again = processes.run(2, train_all, [(config, {}) for config in found])
    for stage in range(4):
        for rank in range(2):
            assert first[rank][stage]["done"], stage
            assert first[rank][stage]["same"] == [True, True], stage
            assert [s["step"] for s in first[rank][stage]["skips"]] == [2, 4]
            assert again[rank][stage]["skips"] == first[rank][stage]["skips"]
        taken = {step: loss for step, loss in first[0][stage]["losses"].items() if step in (4, 5, 6)}
        assert {step: again[0][stage]["losses"][step] for step in taken} == taken
        for name, weight in runs.weights(tmp_path, f"stage-{stage}").items():
            assert torch.equal(weight, weights[stage][name]), (stage, name)


def test_the_decision_names_the_samples(tmp_path: Path, shards: str) -> None:
    config = configured(tmp_path, shards, "named", samples=2 * runs.BATCH)
    processes.run(2, train, config, {1: "gradient"})
    row = json.loads((tmp_path / "named" / "skipped" / "00000001.json").read_text())
    source = plan_run(configs.load(config, [])).stream.source
    known = reader(source)
    _, shard, index = known.plan.at(runs.BATCH, 2 * runs.BATCH)
    names = [
        f"{known.manifest.shards[s].uri}#{known.manifest.index(s).keys[i]}"
        for s, i in zip(shard.tolist(), index.tolist(), strict=True)
    ]
    assert row == {"step": 1, "cause": "gradient is not finite", "positions": [16, 32], "samples": names}


def test_too_many_in_a_row_stop_the_run_which_goes_on_behind_them(tmp_path: Path, shards: str) -> None:
    config = configured(tmp_path, shards, "stopped", max_skipped=3)
    [stopped] = processes.run(1, train, config, {0: "loss", 2: "loss", 3: "gradient", 4: "loss"})
    folder = tmp_path / "stopped" / "skipped"
    assert "3 steps in a row, 2 to 4" in stopped["error"]
    assert f"their samples are listed in {folder}" in stopped["error"]
    assert sorted(path.name for path in folder.iterdir()) == [f"{step:08d}.json" for step in (0, 2, 3, 4)]
    [mended] = processes.run(1, train, config, {})
    assert mended["done"]
    assert [skip["step"] for skip in mended["skips"]] == [0, 2, 3, 4]
