from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cliploom import models
from cliploom.evaluation import features
from cliploom.evaluation import model as published
from cliploom.evaluation.features import Done, Source
from cliploom.evaluation.model import Model
from cliploom.evaluation.store import FeatureStore, concatenate
from cliploom.models import weights
from cliploom.settings.evaluation import Evaluate


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The smallest preset with random weights."""
    folder = tmp_path_factory.mktemp("model")
    weights.save(models.create(models.preset("ViT-mu-8-32"), seed=0), folder / "weights")
    return published.publish(folder / "weights", str(folder / "published"), "mu", 3)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extraction runs its stages one after another in this process."""

    def extract(
        sources: Sequence[Source],
        store: FeatureStore,
        model: Model,
        settings: Evaluate,
        progress: Callable[[Done], None],
    ) -> Done:
        actor = features._Actor(model.uri, "cpu", "fp32", 1)
        done = Done(0, 0, 0)
        for number, source in enumerate(sources):
            rows = features._prepare({"source": number}, sources, model, settings)
            parts = [actor(row)["piece"].content for row in rows]
            store.save(source.digest, concatenate(parts))
            done = done._replace(sources=done.sources + 1, images=done.images + sum(map(len, parts)))
            progress(done)
        return done

    monkeypatch.setattr(features, "extract", extract)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test's data sets are."""
    return tmp_path / "sets"
