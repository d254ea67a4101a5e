"""The path of a model through a team's registry (PostgreSQL, S3, users), and through one on sqlite and a folder."""

from __future__ import annotations

import base64
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
import yaml

import cliploom
import evaluation_sets as sets
import mlflow_servers
import pairs
import servers
from cliploom import models, registry
from cliploom.errors import InputError
from cliploom.models import weights
from cliploom.registry import catalog, claims, history, review, store
from clusters import Head
from mlflow_servers import ADMIN, PASSWORD, MlflowServer, TeamServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # jobs, each a process, against a server that takes its time over each password
    pytest.mark.skipif(importlib.util.find_spec("flask_wtf") is None, reason="mlflow[auth] is not installed"),
]
PLANTED = "planted-secret-4711"
NAME = "emoji"


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def team(
    request: pytest.FixtureRequest, s3: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """A server with users; of a team as in cluster/mlflow, or on one machine."""
    folder = tmp_path_factory.mktemp("team")
    if request.param == "sqlite":
        server = MlflowServer(folder)
        server.start()
        yield server
        server.stop()
        return
    if lacking := mlflow_servers.lacks_postgres():
        pytest.skip(lacking)
    with mlflow_servers.postgres(("mlflow", "mlflow_auth")) as port:
        server = TeamServer(folder, port, f"{s3()}/mlflow")
        server.start()
        yield server
        server.stop()


@pytest.fixture(autouse=True)
def impatience(credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


@pytest.fixture
def config(team: MlflowServer, tmp_path: Path) -> Path:
    """Settings of all jobs: a tiny training run, two classes to evaluate on."""
    sets.classification(tmp_path / "sets/colours", samples=24, shards=1)
    (tmp_path / "suite.yaml").write_text("- {dataset: colours, tasks: [zeroshot_classification]}\n")
    tree = {
        "run": {"storage": str(tmp_path / "runs")},
        "registry": {"uri": team.uri, "model_name": NAME},
        "evaluate": {"suite": str(tmp_path / "suite.yaml"), "root": str(tmp_path / "sets"), "cpus_per_worker": 0.7},
        "data": {"manifest": pairs.write(tmp_path / "pairs", shards=2), "cpus_per_task": 0.2},
        "model": {"name": "ViT-mu-8-32"},
        "train": {
            "global_batch_size": 16,
            "micro_batch_size": 8,
            "samples": 64,
            "cpus_per_worker": 0.7,
            "precision": "fp32",
        },
    }
    path = tmp_path / "team.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def job(config: Path, head: Head) -> Callable[..., str]:
    """Runs a job as users do; returns what it printed."""

    def run(name: str, *arguments: str, code: int = 0) -> str:
        environment = {**head.environment, "RAY_ADDRESS": head.address, "PLANTED_SECRET": PLANTED}
        done = servers.run_job(name, "--config", str(config), *arguments, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def export(folder: Path, seed: int) -> Path:
    weights.save(models.create(models.preset("ViT-mu-8-32"), seed=seed), folder)
    return folder


def test_from_training_to_rollback(team: MlflowServer, job: Callable[..., str], tmp_path: Path) -> None:
    if not isinstance(team, TeamServer):  # a fit takes its time; that of the other store is enough
        tracker = registry.Tracker.start(team.uri, "cliploom", "first", {}, {})
        registry.register(
            team.uri, NAME, tracker.run_id, export(tmp_path / "first", 0), {"samples_seen": "64"}, "# C\n"
        )
        tracker.finish()
    else:
        assert f"registered {NAME} version 1, alias candidate" in job("train", "run.name=first")
    assert "gates    passed" in job("evaluate", "--pending")
    assert "nothing to do" in job("evaluate", "--pending")
    job("review", "approve", "candidate", "the", "first")

    run_id = registry.resolve(team.uri, f"models:/{NAME}/1").run_id
    registry.register(team.uri, NAME, run_id, export(tmp_path / "second", 7), {"samples_seen": "1"}, "# C\n")
    assert "gates    failed" in job("evaluate", "--pending", "evaluate.gates.floors={colours/acc1: 1}")
    assert "acc1" in job("review", "compare", "champion", "candidate")
    assert "has failed its evaluation" in job("review", "approve", "2", code=2)
    job("review", "approve", "2", "only", "to", "try", "--override")
    assert registry.resolve(team.uri, f"models:/{NAME}@champion").version == 2
    assert f"models:/{NAME}/1 is the champion again" in job("review", "rollback", "worse", "it", "is")
    told = job("review", "history")
    assert all(word in told for word in ("rolled back", "worse it is", "overridden", "the first"))

    model, _, tokenize = cliploom.load(f"models:/{NAME}@champion", registry_uri=team.uri)
    with torch.inference_mode():
        expected = model.encode_text(tokenize("a red square"))
    answer = served(team, {"dataframe_split": {"columns": ["text"], "data": [["a red square"]]}})
    torch.testing.assert_close(torch.tensor(answer["predictions"]), expected, rtol=1e-3, atol=1e-4)


def served(team: MlflowServer, *requested: dict[str, Any]) -> Any:
    """The answer of `mlflow models serve` to a request; a picture gets probabilities on the way."""
    [port] = servers.free_ports(1)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where it finds uvicorn
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": team.uri}
    with (team.folder / "serve.log").open("wb") as log:
        serving = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(f"{url}/ping"):
            said = (team.folder / "serve.log").read_text()
            assert serving.poll() is None, said
            assert time.monotonic() < deadline, said
        picture = base64.b64encode(sets.encoded(sets.picture(0))).decode()
        asked: Any = {
            "dataframe_split": {"columns": ["image"], "data": [[picture]]},
            "params": {"classes": ["cat", "dog"]},
        }
        [probabilities] = requests.post(f"{url}/invocations", json=asked, timeout=60).json()["predictions"]
        assert len(probabilities) == 2
        assert sum(probabilities) == pytest.approx(1)
        url_asked: Any = {"dataframe_split": {"columns": ["image"], "data": [["http://169.254.169.254/"]]}}
        refused = requests.post(f"{url}/invocations", json=url_asked, timeout=60)
        assert refused.status_code >= 400
        assert "not allowed" in refused.text
        return requests.post(f"{url}/invocations", json=requested[0], timeout=60).json()
    finally:
        if serving.poll() is None:
            for process in psutil.Process(serving.pid).children(recursive=True):
                process.kill()
            serving.kill()
        serving.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def test_no_secret_is_kept_anywhere(team: MlflowServer, job: Callable[..., str], tmp_path: Path) -> None:
    """A password in the registry's URI, and in the environment, as careless people give them."""
    careless = team.uri.replace("http://", f"http://{ADMIN}:{PASSWORD}@")
    tracker = registry.Tracker.start(careless, "cliploom", "careless", {"registry.uri": store.redact(careless)}, {})
    config = cliploom.config.load(None, [f"registry.uri={careless}", "data.manifest=m", f"registry.model_name={NAME}"])
    tags = registry.version_tags(config, "sha256:abc", 64)
    card = registry.card(config, tags)
    version = registry.register(careless, NAME, tracker.run_id, export(tmp_path / "third", 3), tags, card)
    for key, value in registry.params(config).items():
        assert PASSWORD not in value, key
    tracker.artifact(tmp_path / "third" / "config.json")
    client = store.client(careless)
    run = client.get_run(tracker.run_id)
    stored = [version.card, str(version.tags), version.source, str(run.to_dictionary()), tracker.url]
    stored += [str(model.to_dictionary()) for model in [client.get_logged_model(version.tags["logged_model_id"])]]
    folder = Path(client.download_artifacts(version.run_id, "", str(tmp_path)))
    model_folder = registry.download(careless, version, tmp_path / "here").parent
    stored += [
        path.read_text(errors="ignore") for path in [*folder.rglob("*"), *model_folder.rglob("*")] if path.is_file()
    ]
    for text in stored:
        assert PASSWORD not in text
        assert PLANTED not in text
    job("review", "list", f"registry.uri={careless}")  # asserts that nothing printed holds the password


def test_wrong_password(team: MlflowServer, job: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    for name, words in (("review", ["list"]), ("evaluate", ["--pending"]), ("train", ["run.name=refused"])):
        said = job(name, *words, code=2)
        assert "refuses the credentials: set MLFLOW_TRACKING_USERNAME" in said
        assert "Traceback" not in said


def test_a_reader_registers_and_decides_nothing(
    team: MlflowServer, job: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = registry.Tracker.start(team.uri, "theirs", "read-only", {}, {})
    version = registry.register(team.uri, "theirs", tracker.run_id, export(tmp_path / "theirs", 1), {}, "# C\n")
    reader = {"username": "reader", "password": "reader-password-1"}
    requests.post(f"{team.uri}/api/2.0/mlflow/users/create", json=reader, auth=(ADMIN, PASSWORD), timeout=30)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", reader["password"])
    with pytest.raises(InputError, match="no permission"):
        registry.register(team.uri, "theirs", tracker.run_id, export(tmp_path / "other", 2), {}, "# C\n")
    for words in (["approve", "1", "why", "--override"], ["reject", "1"]):
        said = job("review", *words, "registry.model_name=theirs", code=2)
        assert "gives this user no permission" in said
    assert registry.versions(team.uri, "theirs") == [version]
    assert "1" in job("review", "list", "registry.model_name=theirs")


def test_a_server_that_goes_away_or_has_no_s3_registers_nothing_by_half(
    team: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = registry.Tracker.start(team.uri, "cliploom", "outage", {}, {})
    folder, create = export(tmp_path / "export", 5), catalog._create

    def die(*_: Any, **__: Any) -> Any:
        team.stop()
        return store.client(team.uri).get_run(tracker.run_id)

    def cut_off(*arguments: Any) -> int:
        """The server dies when the files are there and the version is not."""
        client = arguments[0]
        with monkeypatch.context() as patch:
            patch.setattr(client, "create_model_version", die)
            return create(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "_create", cut_off)
        with pytest.raises(store.StoreError, match=rf"MLflow at {team.uri} can't be reached") as raised:
            registry.register(team.uri, "outage", tracker.run_id, folder, {}, "# C\n")
    assert "\n" not in str(raised.value)
    if isinstance(team, TeamServer):
        team.start(servers.READER_KEY)
        assert registry.versions(team.uri, "outage") == []
        with pytest.raises(store.StoreError, match=r"does not do that|breaks off the connection") as raised:
            registry.register(team.uri, "outage", tracker.run_id, folder, {}, "# C\n")
        assert "\n" not in str(raised.value)
        team.stop()
    team.start()
    assert registry.versions(team.uri, "outage") == []
    version = registry.register(team.uri, "outage", tracker.run_id, folder, {}, "# C\n")
    assert version.version == 1
    registry.download(team.uri, version, tmp_path / "here")


def test_of_deciders_and_evaluators_at_once_one_wins(team: MlflowServer, tmp_path: Path) -> None:
    tracker = registry.Tracker.start(team.uri, "cliploom", "contested", {}, {})
    versions = [
        registry.register(team.uri, "contested", tracker.run_id, export(tmp_path / f"{seed}", seed), {}, "# C\n")
        for seed in (11, 12)
    ]
    seen, start = history.read(team.uri, "contested"), threading.Barrier(4)

    def decide(number: int) -> str:
        start.wait()
        try:
            review.approve(team.uri, versions[number % 2], f"reviewer {number}", "good", override=True, seen=seen)
        except InputError as error:
            return str(error)
        return ""

    def claim(_: int) -> bool:
        start.wait()
        return claims.claim(team.uri, versions[0], 600) is not None

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(decide, range(4)))
        claimed = list(threads.map(claim, range(4)))
    [winner] = [number for number, answer in enumerate(answers) if not answer]
    assert all(f"reviewer {winner} decided meanwhile" in answer for answer in answers if answer)
    assert registry.resolve(team.uri, "models:/contested@champion").version == winner % 2 + 1
    assert len(history.read(team.uri, "contested").decisions) == 1
    assert sum(claimed) == 1
