"""A store in SQLite for each test, and versions that cost no weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cliploom import registry
from cliploom.registry import package, store

MODEL = "pictures"
Register = Callable[..., registry.Version]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with MLflow's tables and nothing in them: making one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.check(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    """A store of the test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def tracker(uri: str, tmp_path: Path) -> registry.Tracker:
    """A run in it."""
    return registry.Tracker.start(uri, "tests", "first", {"train.seed": "0"}, {}, str(tmp_path / "mlartifacts"))


@pytest.fixture
def register(uri: str, tracker: registry.Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Registers bytes as weights, without packing a model that MLflow could run."""

    def write(to: Path, export: Path, *_: str) -> None:
        shutil.copytree(export, to / package.FOLDER)
        (to / "MLmodel").write_text("flavors: {}\n")

    monkeypatch.setattr(package, "write", write)

    def register(content: bytes = b"weights", run_id: str | None = None, **tags: str) -> registry.Version:
        folder = tmp_path / "export"
        folder.mkdir(exist_ok=True)
        (folder / "weights.safetensors").write_bytes(content)
        (folder / "config.json").write_text("{}")
        return registry.register(uri, MODEL, run_id or tracker.run_id, folder, tags, "# A card\n")

    return register


def row(value: float, metric: str = "acc1", width: float = 0.02, **more: Any) -> dict[str, Any]:
    """A row of results.json with a symmetric interval of the given width."""
    known = {
        "suite": "tests",
        "model": MODEL,
        "version": 1,
        "dataset": "twemoji",
        "task": "zeroshot_classification",
        "metric": metric,
        "value": value,
        "low": value - width / 2,
        "high": value + width / 2,
        "samples": 1000,
        "seconds": 1.0,
    }
    return {**known, **more}


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """`row`, for tests."""
    return row


@pytest.fixture
def evaluated(uri: str, register: Register, tmp_path: Path) -> Callable[..., registry.Version]:
    """Registers a version with one result."""
    (tmp_path / "report").mkdir()

    def evaluated(value: float, passed: bool = True) -> registry.Version:
        version = register(str(value).encode(), samples_seen="94500")
        reasons = [] if passed else ["acc1 is below its floor."]
        rows = [row(value), row(value / 2, "acc5")]
        registry.record_evaluation(uri, version, rows, tmp_path / "report", passed, reasons)
        return registry.resolve(uri, version.uri)

    return evaluated
