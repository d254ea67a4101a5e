"""The registry against a real `mlflow server`, with users and passwords where MLflow's are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
import torch
from jobs import evaluate

import evaluation_sets
import proxy
from cliploom import config as configs
from cliploom import models, registry
from cliploom.data.tokenizer import Tokenizer
from cliploom.errors import InputError
from cliploom.evaluation import suite as suites
from cliploom.models import weights
from cliploom.registry import claims, cleaning, review, store, tracking
from mlflow_servers import ADMIN, PASSWORD, MlflowServer
from watching import until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("credentials")]

AUTH = importlib.util.find_spec("flask_wtf") is not None  # what mlflow[auth] adds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"), users=AUTH)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def clip() -> models.CLIP:
    return models.create(models.preset("ViT-mu-8-32"), seed=0).eval()


needs_auth = pytest.mark.skipif(not AUTH, reason="mlflow[auth] is not installed")


@torch.inference_mode()
def test_from_a_run_to_the_champion(
    server: MlflowServer, clip: models.CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.check(server.uri)
    tracker = registry.Tracker.start(server.uri, "tests", "cycle", {"train.seed": "0"}, {"note": "x"})
    assert tracker.url.startswith(f"{server.uri}/#/experiments/")
    for step in range(20):
        tracker.log({"loss": 1.0 / (step + 1), "recall@5": 0.5}, step)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<html></html>")
    tracker.artifact(tmp_path / "report", "training")
    tracker.finish()
    assert registry.Tracker.start(server.uri, "tests", "cycle", {"train.seed": "0"}, {}).run_id == tracker.run_id
    assert len(store.client(server.uri).get_metric_history(tracker.run_id, "loss")) == 20

    weights.save(clip, tmp_path / "export")
    version = registry.register(server.uri, "cycle", tracker.run_id, tmp_path / "export", {"samples_seen": "9"}, "# C")
    assert registry.resolve(server.uri, "models:/cycle@candidate") == version
    again = weights.load(registry.download(server.uri, version, tmp_path / "here"))
    assert torch.equal(again.text_projection, clip.text_projection)

    row = {"suite": "s", "model": "m", "version": 1, "dataset": "d", "task": "zeroshot_classification"}
    rows = [{**row, "metric": "acc1", "value": 0.5, "low": 0.4, "high": 0.6, "samples": 10, "seconds": 1.0}]
    registry.record_evaluation(server.uri, version, rows, tmp_path / "report", passed=True, reasons=[])
    version = registry.resolve(server.uri, version.uri)
    assert registry.results(server.uri, version) == rows
    review.approve(server.uri, version, "ada", "good")
    champion = registry.champion(server.uri, "cycle")
    assert champion is not None
    assert champion.aliases == ("candidate", "champion")

    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    embeddings = mlflow.pyfunc.load_model("models:/cycle@champion").predict(pd.DataFrame({"text": ["a cat"]}))
    torch.testing.assert_close(torch.from_numpy(embeddings), clip.encode_text(Tokenizer()("a cat")))


@needs_auth
@pytest.mark.parametrize("password", ["wrong", None])
def test_wrong_or_no_password(server: MlflowServer, monkeypatch: pytest.MonkeyPatch, password: str | None) -> None:
    if password is None:
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(InputError, match="refuses the credentials: set MLFLOW_TRACKING_USERNAME") as raised:
        registry.check(server.uri)
    assert "\n" not in str(raised.value)


@needs_auth
def test_a_user_who_may_only_read(
    server: MlflowServer, clip: models.CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = registry.Tracker.start(server.uri, "theirs", "read-only", {}, {})
    weights.save(clip, tmp_path / "export")
    version = registry.register(server.uri, "theirs", tracker.run_id, tmp_path / "export", {}, "# C")
    import requests

    reader = {"username": "reader", "password": "reader-password-1"}
    made = requests.post(f"{server.uri}/api/2.0/mlflow/users/create", json=reader, auth=(ADMIN, PASSWORD), timeout=30)
    assert made.ok, made.text
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "reader-password-1")
    registry.check(server.uri)
    assert registry.resolve(server.uri, version.uri) == version
    with pytest.raises(InputError, match="no permission"):
        registry.Tracker.start(server.uri, "theirs", "read-only", {}, {})
    with pytest.raises(InputError, match="no permission"):
        review.approve(server.uri, version, "reader", "I may not", override=True)
    leftover = cleaning.Leftover("read-only", tracker.run_id, str(tmp_path / "export"), 0, "killed", True)
    with pytest.raises(InputError, match="no permission"):
        cleaning.remove(server.uri, leftover)
    assert (tmp_path / "export").is_dir()
    assert registry.resolve(server.uri, version.uri) == version


def test_a_server_that_is_down_for_a_while(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # so that it is the tracker that tries again
    monkeypatch.setattr(tracking, "_RETRY_SECONDS", 0.1)
    tracker = registry.Tracker.start(server.uri, "tests", "outage", {}, {})
    tracker.log({"loss": 3.0}, 0)
    tracker.flush()
    server.stop()
    for step in range(1, 50):
        tracker.log({"loss": 3.0 - step / 50}, step)
    with pytest.raises(registry.TrackingError, match="49 metrics could not be delivered"):
        tracker.flush(patience=3)
    server.start()
    tracker.finish()
    history = store.client(server.uri).get_metric_history(tracker.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(step, 3.0 - step / 50) for step in range(50)]


def test_a_claim_outlives_a_server_that_breaks_off(
    server: MlflowServer,
    clip: models.CLIP,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = registry.Tracker.start(server.uri, "tests", "claimed", {}, {})
    weights.save(clip, tmp_path / "export")
    version = registry.register(server.uri, "claimed", tracker.run_id, tmp_path / "export", {}, "# C")

    def told() -> str:
        return registry.resolve(server.uri, version.uri).tags[claims.CLAIM]

    with proxy.before(server.uri) as between:
        mine = claims.claim(between.endpoint, version, 0.5)
        assert mine is not None
        with mine:
            between.fault = lambda line, number: "reset"
            until(lambda: "could not be renewed" in caplog.text, "a renewal fails")
            with pytest.raises(store.StoreError, match="breaks off the connection"):
                mine.holds()
            last = told()
            between.fault = lambda line, number: None
            until(lambda: told() != last, "the claim is renewed")
    assert '"ended"' in told()


def test_a_watching_evaluator_outlives_each_request_that_fails(
    server: MlflowServer, clip: models.CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of each kind, apart from those by which it finds out whether the server is there."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(evaluate.signal, "signal", lambda *_: None)
    tracker = registry.Tracker.start(server.uri, "tests", "watched", {}, {})
    weights.save(clip, tmp_path / "export")
    registry.register(server.uri, "watched", tracker.run_id, tmp_path / "export", {}, "# C")
    evaluation_sets.classification(tmp_path / "colours", samples=8, shards=1)
    (tmp_path / "small.yaml").write_text("- {dataset: colours, tasks: [zeroshot_classification]}\n")
    settings = [f"evaluate.root={tmp_path}", "evaluate.poll_seconds=0.1", "evaluate.lease_seconds=1"]
    failed = set[str]()

    def fault(line: str, number: int) -> Literal["reset"] | None:
        kind = line.split()[1].partition("?")[0].partition("/mlflow/")[2]
        if kind == "experiments/search" or kind in failed:
            return None
        failed.add(kind)
        return "reset"

    def evaluated(*_: object) -> None:
        raise KeyboardInterrupt  # which ends the watch

    monkeypatch.setattr(evaluate, "_evaluate", evaluated)
    suite = suites.load(str(tmp_path / "small.yaml"))
    with proxy.before(server.uri) as between:
        between.fault = fault
        with pytest.raises(KeyboardInterrupt):
            evaluate._watch(configs.load(None, settings), suite, between.endpoint, "watched")
    assert failed >= {"registered-models/get", "model-versions/search", "runs/get", "model-versions/set-tag"}
