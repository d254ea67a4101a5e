from __future__ import annotations

from pathlib import Path

import pytest

import protocols
from cliploom import models
from cliploom.evaluation import model as published
from cliploom.evaluation.model import Model
from cliploom.models import weights


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The smallest preset with random weights."""
    folder = tmp_path_factory.mktemp("model")
    weights.save(models.create(models.preset("ViT-mu-8-32"), seed=0), folder / "weights")
    return published.publish(folder / "weights", str(folder / "published"), "mu", 3)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extraction runs its stages one after another in this process."""
    protocols.without_ray(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test's data sets are."""
    return tmp_path / "sets"
