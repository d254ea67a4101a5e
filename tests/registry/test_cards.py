"""The model card, and the facts in it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom import config as configs
from cliploom import registry
from cliploom.registry import cards, provenance

MakeRow = Callable[..., dict[str, Any]]


@pytest.fixture
def config() -> configs.Config:
    return configs.load(None, ["registry.model_name=pictures", "data.manifest=s3://b/manifest.parquet"])


@pytest.fixture
def tags(config: configs.Config) -> dict[str, str]:
    return registry.version_tags(config, "sha256:abc", 94500)


def test_tags_say_where_a_version_comes_from(tags: dict[str, str]) -> None:
    assert tags["data_fingerprint"] == "sha256:abc"
    assert tags["samples_seen"] == "94500"
    assert tags["zero_stage"] == "1"
    assert tags["stack.torch"] == version("torch")
    assert all(isinstance(value, str) for value in tags.values())


def test_the_card_tells_the_licences_of_the_data(tags: dict[str, str]) -> None:
    told = configs.load(None, ["data.manifest=m", "data.licences=CC-BY-4.0"])
    assert "- licences of the data: CC-BY-4.0\n" in registry.card(told, tags)
    assert "- licences of the data: not stated\n" in registry.card(configs.load(None, ["data.manifest=m"]), tags)


def test_commit_is_the_checkout_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    monkeypatch.delenv("CLIPLOOM_GIT_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() == "unknown"
    git("init", "-q")
    (tmp_path / "provenance.py").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("tag", "-a", "v1", "-m", "v1")
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "provenance.py").write_text("2")
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("CLIPLOOM_GIT_COMMIT", "told")
    provenance.git_commit.cache_clear()
    assert provenance.git_commit() == "told"
    provenance.git_commit.cache_clear()


def test_parameters_are_flat_and_hold_no_password() -> None:
    config = configs.load(None, ["registry.uri=https://ada:secret@mlflow.example.org", "train.seed=7"])
    params = registry.params(config)
    assert params["train.seed"] == "7"
    assert params["registry.uri"] == "https://mlflow.example.org"
    assert "run.name" not in params  # not set
    assert "secret" not in str(params)


def test_card_holds_the_facts(config: configs.Config, tags: dict[str, str], make_row: MakeRow) -> None:
    text = registry.card(config, tags, [make_row(0.158, chance=1 / 4170)])
    facts = ("# pictures", "94,500", "sha256:abc", "s3://b/manifest.parquet", tags["git_commit"], "global_batch_size")
    for fact in (*facts, f"torch {version('torch')}", "| 15.8 [14.8, 16.8] | 0.024 | 1,000 |"):
        assert fact in text


def test_new_results_take_the_old_ones_place(config: configs.Config, tags: dict[str, str], make_row: MakeRow) -> None:
    text = registry.card(config, tags)
    assert "None yet." in text
    first = cards.with_results(text, [make_row(0.158)], "Evaluation failed.")
    second = cards.with_results(first, [make_row(0.3)], "Evaluation passed.")
    assert second == cards.with_results(text, [make_row(0.3)], "Evaluation passed.")
    assert "15.8" not in second
    assert second.count("## Results") == 1


@given(st.text(max_size=8000), st.integers(0, 200), st.text(max_size=3000))
def test_a_card_fits_mlflow_s_column(text: str, rows: int, outcome: str) -> None:
    row = {"dataset": "d", "task": "t", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "samples": 10}
    assert len(cards.with_results(text, [row] * rows, outcome)) <= cards.LIMIT


def test_a_card_that_is_cut_says_so(config: configs.Config, tags: dict[str, str], make_row: MakeRow) -> None:
    rows = [make_row(i / 500, f"metric{i}") for i in range(500)]
    text = registry.card(config, tags, rows)
    assert text.endswith("More in results.json of the run.")
    assert "metric0 " in text
