"""Versions: registered whole and once, found by name, described by their evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cliploom import registry
from cliploom.errors import InputError
from cliploom.registry import catalog, package, store
from cliploom.registry.tracking import Tracker

MODEL = "pictures"
Register = Callable[..., registry.Version]
MakeRow = Callable[..., dict[str, Any]]


def test_a_registered_version(uri: str, tracker: Tracker, register: Register) -> None:
    version = register(samples_seen="1000", git_commit="abc")
    assert (version.name, version.version, version.run_id) == (MODEL, 1, tracker.run_id)
    assert version.aliases == ("candidate",)
    assert version.tags["samples_seen"] == "1000"
    assert version.card == "# A card\n"
    assert version.uri == "models:/pictures/1"
    assert registry.versions(uri, MODEL) == [version]
    outputs = store.client(uri).get_run(tracker.run_id).outputs
    assert outputs is not None
    assert [output.model_id for output in outputs.model_outputs] == [version.tags["logged_model_id"]]


def test_candidate_is_the_newest_version(uri: str, register: Register) -> None:
    register(b"one")
    register(b"two")
    assert [v.aliases for v in registry.versions(uri, MODEL)] == [(), ("candidate",)]


def test_the_same_weights_of_a_run_are_registered_once(uri: str, register: Register) -> None:
    first = register(b"one")
    assert register(b"one") == first
    register(b"two")
    assert register(b"one").version == 1
    assert [v.aliases for v in registry.versions(uri, MODEL)] == [(), ("candidate",)]


def test_the_same_weights_of_another_run_are_another_version(uri: str, register: Register) -> None:
    register(b"one")
    assert register(b"one", run_id=Tracker.start(uri, "tests", "second", {}, {}).run_id).version == 2


def test_a_registration_that_fails_leaves_no_version(
    uri: str, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = package.write

    def broken(to: Path, export: Path, *_: str) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(package, "write", broken)
    with pytest.raises(OSError, match="no space left"):
        register()
    assert registry.versions(uri, MODEL) == []
    monkeypatch.setattr(package, "write", working)
    assert register().version == 1


def test_versions_are_listed_over_several_pages(
    uri: str, register: Register, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "_PAGE", 2)
    source = register().source
    for _ in range(4):
        store.client(uri).create_model_version(MODEL, source, tracker.run_id)
    assert [v.version for v in registry.versions(uri, MODEL)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("model_uri", "said"),
    [
        ("pictures", "write models:/NAME@ALIAS"),
        ("models:/pictures", "write models:/NAME@ALIAS"),
        ("models:/pictures/latest", "write models:/NAME@ALIAS"),
        ("models:/picture/1", "no registered model picture .*did you mean pictures"),
        ("models:/pictures/7", "no version 7; there is 1"),
        ("models:/pictures@champion", "no alias champion; there is candidate"),
    ],
)
def test_what_does_not_resolve(uri: str, register: Register, model_uri: str, said: str) -> None:
    register()
    with pytest.raises(InputError, match=said):
        registry.resolve(uri, model_uri)


def test_resolve_by_alias_and_number(uri: str, register: Register) -> None:
    version = register()
    assert registry.resolve(uri, "models:/pictures@candidate") == version
    assert registry.resolve(uri, "models:/pictures/1") == version


def test_download(uri: str, register: Register, tmp_path: Path) -> None:
    folder = registry.download(uri, register(b"the weights"), tmp_path / "here")
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "config.json"}
    assert (folder / "weights.safetensors").read_bytes() == b"the weights"


def test_tampered_weights_are_refused(uri: str, register: Register, tmp_path: Path) -> None:
    version = register(b"the weights")
    (stored,) = (tmp_path / "mlartifacts").rglob("weights.safetensors")
    stored.write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"stored weights.safetensors is not the one that was registered"):
        registry.download(uri, version, tmp_path / "here")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    (folder / "plots").mkdir(parents=True)
    (folder / "report.html").write_text("<html></html>")
    (folder / "plots" / "a.png").write_bytes(b"png")
    return folder


def test_an_evaluation_is_recorded(uri: str, register: Register, report: Path, make_row: MakeRow) -> None:
    version = register(samples_seen="1000")
    assert registry.candidates(uri, MODEL) == [version]
    rows = [make_row(0.5), make_row(0.25, "image_retrieval_recall@5")]
    registry.record_evaluation(uri, version, rows, report, passed=False, reasons=["acc1 is below 60 %."])
    after = registry.resolve(uri, version.uri)
    assert after.tags["evaluation"] == "failed"
    assert after.tags["evaluation.reasons"] == "acc1 is below 60 %."
    assert "50.0 [49.0, 51.0]" in after.card
    assert "acc1 is below 60 %." in after.card
    assert registry.results(uri, after) == rows
    assert registry.candidates(uri, MODEL) == []
    run = store.client(uri).get_run(version.run_id)
    assert run.data.metrics == {"twemoji/acc1": 0.5, "twemoji/image_retrieval_recall_at_5": 0.25}


def test_the_report_is_kept_with_the_run(uri: str, register: Register, report: Path, make_row: MakeRow) -> None:
    version = register()
    registry.record_evaluation(uri, version, [make_row(0.5)], report, passed=True, reasons=[])
    kept = Path(store.client(uri).download_artifacts(version.run_id, "evaluation"))
    assert {path.name for path in kept.rglob("*") if path.is_file()} == {"report.html", "a.png", "results.json"}
    (results,) = kept.rglob("results.json")
    assert json.loads(results.read_text()) == [make_row(0.5)]


def test_versions_of_one_run_keep_their_own_results(
    uri: str, register: Register, report: Path, make_row: MakeRow
) -> None:
    first, second = register(b"one"), register(b"two")
    registry.record_evaluation(uri, first, [make_row(0.5)], report, passed=True, reasons=[])
    registry.record_evaluation(uri, second, [make_row(0.6)], report, passed=True, reasons=[])
    assert [registry.results(uri, v)[0]["value"] for v in (first, second)] == [0.5, 0.6]


def test_no_results_before_an_evaluation(uri: str, register: Register) -> None:
    assert registry.results(uri, register()) == []


def test_set_tags_keeps_the_others(uri: str, register: Register) -> None:
    version = register(git_commit="abc")
    registry.set_tags(uri, version, {"note": "kept"})
    tags = registry.resolve(uri, version.uri).tags
    assert (tags["git_commit"], tags["note"]) == ("abc", "kept")
