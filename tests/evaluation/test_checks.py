"""Checks of checkpoints: what is measured, and what is refused before a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import evaluation_sets as sets
import pairs
from cliploom import config as configs
from cliploom import models, pools
from cliploom.errors import InputError
from cliploom.evaluation import run as evaluation
from cliploom.evaluation import suite as suites
from cliploom.evaluation.checks import Checks, _check
from cliploom.evaluation.model import publish
from cliploom.models import weights
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Progress
from cliploom.training.run import Run, plan_run

SUITE = """
- {dataset: colours, tasks: [linear_probe, zeroshot_classification]}
- {dataset: pairs, tasks: [zeroshot_retrieval]}
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    settings = [f"run.storage={tmp_path}", "run.name=r", f"data.manifest={pairs.write(tmp_path / 'shards', 1, 8)}"]
    sizes = ["train.global_batch_size=8", "train.samples=8", "model.name=ViT-mu-8-32", "train.evaluate_steps=1"]
    return plan_run(configs.load(None, settings + sizes))


def opened(folder: Path, text: str) -> tuple[Any, Any]:
    sets.classification(folder / "colours", samples=24)
    sets.classification(folder / "colours", samples=24, split="train", first=24)
    sets.retrieval(folder / "pairs")
    (folder / "small.yaml").write_text(text)
    suite = suites.load(str(folder / "small.yaml"))
    return suite, evaluation.open_suite(suite, str(folder))


def test_a_checkpoint_is_measured_as_its_weights_are(run: Run, tmp_path: Path, without_ray: None) -> None:
    """Beside the evaluation of the exported weights, by the job's way."""
    model = models.create(run.model, seed=5)
    attempt, _ = checkpoint.begin(run.folder)
    state = {f"weight/{name}@0": value.detach().flatten() for name, value in model.state_dict().items()}
    part = checkpoint.write_part(run.folder, attempt, 1, 0, state)
    uri = checkpoint.commit(run.folder, attempt, Progress(1, 8, 1, "print", run.settings), [part])
    suite, sets_ = opened(tmp_path / "sets", SUITE)
    found = _check(run, suite, sets_)(uri)
    weights.save(model, tmp_path / "weights")
    published = publish(tmp_path / "weights", str(tmp_path / "published"), "m")
    features = str(tmp_path / "features")
    outcome = evaluation.evaluate(suite, sets_, published, [], features, run.config.evaluate, 0.01)
    short = {"zeroshot_classification": "zeroshot", "zeroshot_retrieval": "retrieval"}
    rows = [row for row in outcome.rows if row["task"] in short]
    assert found == {f"{short[row['task']]}/{row['dataset']}/{row['metric']}": row["value"] for row in rows}
    assert next(iter(found)) == "zeroshot/colours/acc1"


def test_a_suite_without_zero_shot_tasks_is_refused(run: Run, tmp_path: Path) -> None:
    suite, sets_ = opened(tmp_path / "sets", "- {dataset: colours, tasks: [linear_probe]}")
    with pytest.raises(InputError, match=r"evaluate\.suite: small has no zero-shot task"):
        _check(run, suite, sets_)


def test_too_little_room_beside_the_workers_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "capacity", lambda pool: {"CPU": 2.5})
    monkeypatch.setattr(pools, "selector", lambda pool: {})
    suite, sets_ = opened(tmp_path / "sets", SUITE)
    with pytest.raises(InputError, match=r"needs evaluate\.cpus_per_worker=1 beside training, which leaves 0\.5 CPUs"):
        Checks(run, suite, sets_, lambda metrics, step: None, print)
