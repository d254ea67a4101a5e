"""The recipes: the paper's hyper-parameters, and settings that make a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliploom import config, models
from cliploom.data.plan import micro_batches
from cliploom.training.run import model_config, workers_range

RECIPES = Path(__file__).parent.parent / "jobs" / "configs" / "recipes"

# Radford et al. 2021, tables 19 and 20: learning rate; 18: beta2 and epsilon.
PAPER = {
    "RN50": (5e-4, 0.999, 1e-8),
    "RN101": (5e-4, 0.999, 1e-8),
    "RN50x4": (5e-4, 0.999, 1e-8),
    "RN50x16": (4e-4, 0.999, 1e-8),
    "RN50x64": (3.6e-4, 0.999, 1e-8),
    "ViT-B-32": (5e-4, 0.98, 1e-6),
    "ViT-B-16": (5e-4, 0.98, 1e-6),
    "ViT-L-14": (4e-4, 0.98, 1e-6),
    "ViT-L-14-336": (2e-5, 0.98, 1e-6),
}


def test_each_of_the_papers_models_has_a_recipe() -> None:
    assert set(PAPER) == set(models.list_models()[:9])


@pytest.mark.parametrize("name", PAPER)
def test_hyper_parameters_are_the_papers(name: str) -> None:
    recipe = config.load(str(RECIPES / f"{name}.yaml"))
    train = recipe.train
    assert recipe.model.name == name
    assert (train.learning_rate, train.beta2, train.epsilon) == PAPER[name]
    assert (train.global_batch_size, train.weight_decay, train.beta1, train.max_gradient_norm) == (
        32768,
        0.2,
        0.9,
        None,
    )
    assert train.warmup_samples == 2000 * train.global_batch_size
    assert train.epochs == (1 if name == "ViT-L-14-336" else 32)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_makes_a_model_and_cuts_its_batch_evenly(file: Path) -> None:
    recipe = config.load(str(file), ["model.weights=somewhere"] if file.stem in {"lit", "fine-tune"} else [])
    model = model_config(recipe, None)
    train = recipe.train
    count, rows = micro_batches(train.global_batch_size, workers_range(recipe)[1], train.micro_batch_size)
    assert count * rows * workers_range(recipe)[1] == train.global_batch_size
    assert not model.is_resnet or rows % train.norm_batch_size == 0
