"""What goes, and what must stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import clean

from cliploom import job, registry, storage
from cliploom.registry import cleaning, store
from cliploom.registry.tracking import Status, Tracker

Register = Callable[..., registry.Version]


@pytest.fixture
def make(uri: str, tmp_path: Path) -> Callable[..., Tracker]:
    """A run in MLflow with a folder that has a checkpoint and, where it is `exported`, its weights."""

    def make(name: str, status: Status | None, exported: bool = False, **tags: str) -> Tracker:
        made = Tracker.start(uri, "tests", name, {}, tags, str(tmp_path / "mlartifacts"))
        for file in ("checkpoints/10/state", *(["export/weights.safetensors"] if exported else [])):
            path = tmp_path / "runs" / name / file
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x" * 1000)
        if status:
            made.finish(status)
        return made

    return make


def found(uri: str, tmp_path: Path, days: float = 0) -> list[tuple[str, bool]]:
    listed = cleaning.find(uri, "tests", str(tmp_path / "runs"), days)
    return sorted((one.run, one.whole) for one in listed)


def test_what_may_go_and_what_not(uri: str, make: Callable[..., Tracker], register: Register, tmp_path: Path) -> None:
    make("goes-on", None)
    make("killed", "KILLED")
    make("failed", "FAILED", exported=True)
    make("finished", "FINISHED", exported=True)
    make("finished-without-weights", "FINISHED")
    register(run_id=make("failed-but-registered", "FAILED", exported=True).run_id)
    assert found(uri, tmp_path) == [("failed", True), ("finished", False), ("killed", True)]
    assert found(uri, tmp_path, days=1) == []


def test_a_run_that_keeps_decisions_stays(uri: str, make: Callable[..., Tracker], register: Register) -> None:
    first = register(run_id=make("first", "FAILED").run_id)
    store.client(uri).delete_model_version(first.name, str(first.version))
    assert cleaning.find(uri, "tests", "runs", 0) == []


def test_what_trials_leave_is_their_searchs(uri: str, make: Callable[..., Tracker], tmp_path: Path) -> None:
    search = make("search", "FINISHED")
    make("search-003", "KILLED", **{"mlflow.parentRunId": search.run_id})  # which the search stopped early
    assert found(uri, tmp_path) == []


def test_what_an_interruption_leaves_is_listed_again(
    uri: str, make: Callable[..., Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("killed", "KILLED")
    [one] = cleaning.find(uri, "tests", str(tmp_path / "runs"), 0)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cleaning.remove(uri, one)
    assert cleaning.find(uri, "tests", str(tmp_path / "runs"), 0) == [one]
    cleaning.remove(uri, one)
    assert found(uri, tmp_path) == []


def test_job_lists_first_and_deletes_when_told(
    uri: str, make: Callable[..., Tracker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = make("killed", "KILLED")
    make("finished", "FINISHED", exported=True)
    settings = [f"registry.uri={uri}", "registry.experiment=tests", f"run.storage={tmp_path}/runs", "clean.days=0"]
    assert job.run(clean.main, argv=settings, options=clean.OPTIONS) == 0
    assert "would delete: 2 of them" in capsys.readouterr().out
    assert (tmp_path / "runs/killed/checkpoints").exists()
    assert job.run(clean.main, argv=[*settings, "--delete"], options=clean.OPTIONS) == 0
    assert "deleted: 2 of them" in capsys.readouterr().out
    assert not (tmp_path / "runs/killed").exists()
    assert [path.name for path in (tmp_path / "runs/finished").iterdir()] == ["export"]
    assert store.client(uri).get_run(killed.run_id).info.lifecycle_stage == "deleted"
    assert job.run(clean.main, argv=settings, options=clean.OPTIONS) == 0
    assert "would delete: 0 of them" in capsys.readouterr().out
