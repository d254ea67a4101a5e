"""The job `evaluate` on a real Ray cluster: its numbers, what it keeps, what it records, what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import evaluate
from torch.nn import functional as F

import evaluation_sets as sets
import servers
from cliploom import config as configs
from cliploom import job, models, registry, storage
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import Preprocess, open_image
from cliploom.models import weights
from cliploom.registry import claims

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray")]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the job on a small suite below the working directory; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    sets.classification(tmp_path / "sets/colours", samples=50, shards=3)
    sets.retrieval(tmp_path / "sets/pairs")
    (tmp_path / "small.yaml").write_text(
        "- {dataset: colours, tasks: [zeroshot_classification]}\n- {dataset: pairs, tasks: [zeroshot_retrieval]}\n"
    )
    given = {
        "evaluate.suite": "small.yaml",
        "evaluate.root": "sets",
        "evaluate.batch_size": 8,
        "evaluate.workers": 2,
        "evaluate.cpus_per_worker": 0.7,  # of two CPUs, little more is left than a decoding task needs
        "run.storage": "runs",
    }

    def start(**settings: Any) -> int:
        merged = given | {key.replace("__", "."): value for key, value in settings.items()}
        return job.run(evaluate.main, argv=[f"{key}={value}" for key, value in merged.items()])

    return start


def _results(run_name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(Path("runs", run_name, "evaluation/results.json").read_text())
    return rows


def _accuracy(model: Path) -> float:
    """What a plain loop over the fifty pictures finds."""
    network, preprocess, tokenize = weights.load(model).eval(), Preprocess(32), Tokenizer()
    right = 0
    with torch.inference_mode():
        prompts = [[template.replace("{c}", name) for template in sets.TEMPLATES] for name in sets.COLOURS]
        classes = torch.stack([F.normalize(network.encode_text(tokenize(p)), dim=-1).mean(0) for p in prompts])
        for number in range(50):
            label = number % 4 if number % 3 else 0
            kind = ("png", "jpg", "webp")[number % 3]
            image = preprocess(open_image(sets.encoded(sets.picture(number), kind)))[None]
            similarity = network.encode_image(image) @ F.normalize(classes, dim=-1).T
            right += int(similarity.argmax() == label)
    return right / 50


def test_numbers_are_those_of_a_plain_loop_and_features_are_kept(
    run: Callable[..., int], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(evaluate__model=model) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[:3] == [
        "run      mu-small",
        f"storage  {Path.cwd()}/runs/mu-small/evaluation",
        "mlflow   none, it is a file",
    ]
    assert "acc1" in printed
    rows = _results("mu-small")
    assert rows[0]["metric"] == "acc1"
    assert rows[0]["value"] == pytest.approx(_accuracy(model))
    folder = Path("runs/mu-small/evaluation")
    with (folder / "results.csv").open() as file:
        assert [float(row["value"]) for row in csv.DictReader(file)] == [row["value"] for row in rows]
    assert "data:image/webp" in (folder / "report.html").read_text()

    kept = sorted(Path("runs/features").rglob("*.npz"))
    assert len(kept) == 3 + 2 + 3, "class names are embedded by all prompts, by the first, and alone"
    times = {path: path.stat().st_mtime_ns for path in kept}
    lost = next(path for path in kept if len(np.load(path)["keys"]) == 16)
    lost.unlink()  # as if the job had been stopped before this shard was finished
    assert run(evaluate__model=model) == 0
    assert {path for path in kept if path.stat().st_mtime_ns != times[path]} == {lost}
    again = _results("mu-small")
    assert [row["value"] for row in again] == [row["value"] for row in rows]


def test_a_registered_version_gets_its_results_and_the_gates_outcome(run: Callable[..., int], model: Path) -> None:
    uri = registry.store_uri(configs.load(overrides=["run.storage=runs"]))
    Path("runs").mkdir()
    root = registry.artifact_root(configs.load(overrides=["run.storage=runs"]))
    tracker = registry.Tracker.start(uri, "tests", "training", {}, {}, root)
    registry.register(uri, "emoji", tracker.run_id, model, {}, "")
    tracker.finish()
    assert run(registry__model_name="emoji", evaluate__gates="{floors: {colours/acc1: 1.0}}") == 0
    version = registry.resolve(uri, "models:/emoji/1")
    assert version.tags["evaluation"] == "failed"
    assert "below its floor of 100.0%" in version.tags["evaluation.reasons"]
    rows = _results("emoji-1-small")
    assert registry.results(uri, version) == rows
    assert {(row["model"], row["version"]) for row in rows} == {("emoji", 1)}

    assert run(evaluate__model="models:/emoji@candidate") == 0
    assert registry.resolve(uri, "models:/emoji/1").tags["evaluation"] == "passed"


def test_pending_and_watching_evaluators_share_the_work(
    run: Callable[..., int], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = registry.store_uri(configs.load(overrides=["run.storage=runs"]))
    Path("runs").mkdir()
    tracker = registry.Tracker.start(uri, "tests", "training", {}, {}, f"{Path.cwd()}/runs/mlartifacts")
    other = Path("other")
    weights.save(models.create(models.preset("ViT-mu-8-32"), seed=1), other)
    first, second = (registry.register(uri, "emoji", tracker.run_id, folder, {}, "") for folder in (model, other))
    theirs = claims.claim(uri, first, 600)
    assert theirs is not None
    with theirs:
        assert run(registry__model_name="emoji", evaluate__pending="true") == 0
        assert run(registry__model_name="emoji", evaluate__pending="true") == 0
    assert "nothing to do" in capsys.readouterr().out
    states = [registry.resolve(uri, one.uri).tags.get("evaluation") for one in (first, second)]
    assert states == [None, "passed"]

    watching = [sys.executable, str(servers.ROOT / "jobs/evaluate.py"), "--watch", "registry.model_name=emoji"]
    settings = ["evaluate.suite=small.yaml", "evaluate.root=sets", "run.storage=runs", "evaluate.poll_seconds=0.2"]
    settings += ["evaluate.cpus_per_worker=0.7", f"ray.address={ray_address()}"]
    watcher = subprocess.Popen([*watching, *settings], stdout=subprocess.PIPE, text=True)
    try:
        while "evaluation" not in registry.resolve(uri, first.uri).tags:
            assert watcher.poll() is None
        watcher.terminate()
        said, _ = watcher.communicate()
    finally:
        watcher.kill()
    assert watcher.returncode == 130
    assert said.splitlines()[0] == f"watching emoji in {uri}"
    assert "run      emoji-1-small" in said


def ray_address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def test_data_model_and_features_may_be_on_s3(run: Callable[..., int], model: Path, s3: Callable[[], str]) -> None:
    bucket = s3()
    for path in Path("sets").rglob("*.*"):
        storage.upload(path, f"{bucket}/{path}")
    for path in model.iterdir():
        storage.upload(path, f"{bucket}/mu/{path.name}")
    assert run(evaluate__model=f"{bucket}/mu", evaluate__root=f"{bucket}/sets", run__storage=f"{bucket}/runs") == 0
    rows = json.loads(storage.read(f"{bucket}/runs/mu-small/evaluation/results.json"))
    assert rows[0]["value"] == pytest.approx(_accuracy(model))
    assert len(storage.files(f"{bucket}/runs/features")) == 8


def test_a_training_runs_folder_stands_for_the_weights_that_it_exported(
    run: Callable[..., int], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("trained/first/checkpoints").mkdir(parents=True)
    Path("trained/first/checkpoints/COMMIT.json").write_text("{}")
    assert run(evaluate__model="trained/first") == 2
    assert "trained/first has not exported its weights yet: let it train to its end" in capsys.readouterr().err
    shutil.copytree(model, "trained/first/export")
    assert run(evaluate__model="trained/first") == 0
    rows = _results("first-small")
    assert {row["model"] for row in rows} == {"first"}
    assert rows[0]["value"] == pytest.approx(_accuracy(model))
    assert Path("runs/first-small/evaluation/report.md").read_text().startswith("# first on small")


def test_a_damaged_shard_is_the_users_to_mend(
    run: Callable[..., int], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = Path("sets/colours/test/1.tar")
    shard.write_bytes(shard.read_bytes()[:5000])
    assert run(evaluate__model=model) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: the shard {Path.cwd()}/sets/colours/test/1.tar is damaged")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluate__workers": 64}, "evaluate.workers=64 and a decoding task need 45.3 CPUs, the Ray cluster has"),
        ({"evaluate__gpus_per_worker": 32}, "need 64 GPUs, the Ray cluster has"),
        ({"evaluate__model": "nowhere.pt"}, "evaluate.model: there is no nowhere.pt"),
        ({"evaluate__suite": "other.yaml"}, "there is no suite file other.yaml"),
        ({"evaluate__root": "elsewhere"}, "data set colours: there is no"),
        ({"evaluate__gates": "{floors: {colour/acc1: 0.1}}"}, "did you mean colours/acc1?"),
    ],
)
def test_wrong_input_is_answered_in_one_line_at_once(
    run: Callable[..., int], model: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], message: str
) -> None:
    assert run(**{"evaluate__model": model, **settings}) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert not Path("runs/features").exists()
