"""What a run's settings make of a model, which don't go together, and with which a run goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pairs
from cliploom import config, models
from cliploom.data.reader import Batch
from cliploom.errors import InputError
from cliploom.models import weights
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Progress
from cliploom.training.run import Run, check_goes_on, is_complete, model_config, note_export, plan_run

VIT = models.preset("ViT-mu-8-32")


def made(*settings: str, start: models.ModelConfig | None = None) -> models.ModelConfig:
    return model_config(config.load(None, ["model.name=ViT-mu-8-32", *settings]), start)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ([], {}),
        (["model.activation=gelu"], {"activation": "gelu"}),
        (["objective.name=sigmoid"], {"logit_bias": True}),
        (["objective.name=bag_of_words_contrastive"], {"text_layers": 0}),
    ],
)
def test_settings_and_objective_make_the_geometry(settings: list[str], change: dict[str, Any]) -> None:
    assert made(*settings) == replace(VIT, **change)


def test_weights_say_their_activation() -> None:
    start = replace(VIT, activation="gelu")
    assert made("model.weights=w", start=start) == start
    with pytest.raises(InputError, match="has gelu: leave"):
        made("model.weights=w", "model.activation=quick_gelu", start=start)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.name=RN14-mu-64", "model.patch_dropout=0.5"], "model.patch_dropout needs a vision transformer"),
        (["train.lock=image"], "train.lock=image needs weights to keep: give model.weights"),
        (["objective.name=captioning", "model.weights=w"], "objective.name=captioning trains no CLIP"),
    ],
)
def test_what_does_not_go_together(settings: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(*settings)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pairs.write(tmp_path_factory.mktemp("pairs"), shards=1, samples=16)


def planned(shards: str, folder: Path, *settings: str) -> Run:
    place = [f"data.manifest={shards}", "run.name=r", f"run.storage={folder}", "model.name=ViT-mu-8-32"]
    return plan_run(config.load(None, [*place, "train.global_batch_size=8", "train.samples=80", *settings]))


def trained(run: Run) -> None:
    """As after all steps of the run, its weights exported."""
    attempt, _ = checkpoint.begin(run.folder)
    progress = Progress(run.steps, 8 * run.steps, run.steps, run.stream.source.fingerprint, run.settings)
    checkpoint.commit(run.folder, attempt, progress, [])
    note_export(run)


def test_a_run_that_is_made_longer_is_complete_at_its_new_end(shards: str, tmp_path: Path) -> None:
    run, longer = planned(shards, tmp_path), planned(shards, tmp_path, "train.samples=160")
    trained(run)
    assert is_complete(run)
    assert not is_complete(longer)
    trained_further = longer.steps
    attempt, _ = checkpoint.begin(run.folder)
    progress = Progress(trained_further, 160, trained_further, "", run.settings)
    checkpoint.commit(run.folder, attempt, progress, [])
    assert not is_complete(longer), "the weights exported are those of the former end"
    note_export(longer)
    assert is_complete(longer)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.samples=40"], r"run r has been trained on 80 samples, more than the 40 asked for now"),
        (["model.factor=2"], r"run r was begun with model\.factor=1\.0, not 2\.0"),
        (["train.seed=1"], r"run r was begun with train\.seed=0, not 1"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(settings: list[str], said: str, shards: str, tmp_path: Path) -> None:
    run = planned(shards, tmp_path)
    check_goes_on(run)
    trained(run)
    check_goes_on(run)
    with pytest.raises(InputError, match=said):
        check_goes_on(planned(shards, tmp_path, *settings))


def test_a_locked_resnet_has_no_norm_groups_to_keep_whole(shards: str, tmp_path: Path) -> None:
    cut = ["model.name=RN14-mu-64", "train.micro_batch_size=3", "train.norm_batch_size=4"]
    with pytest.raises(InputError, match=r"train\.norm_batch_size=4 does not divide"):
        planned(shards, tmp_path, *cut)
    planned(shards, tmp_path, *cut, "model.weights=w", "train.lock=image")


def test_weights_of_another_context_than_the_stream_s_are_refused(tmp_path: Path) -> None:
    assert {models.preset(name).context_length for name in models.list_models()} == {Batch.CONTEXT}
    weights.save(models.create(replace(VIT, context_length=16)), tmp_path)
    with pytest.raises(InputError, match="its context_length is 16 where the model asked for has 77"):
        weights.load(tmp_path, made("model.weights=w"))
