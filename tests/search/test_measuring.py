"""Held-out loss and zero-shot accuracy, against plain torch on the same pairs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import evaluation_sets
import pairs
from cliploom import config, objectives
from cliploom.data.plan import WorkItem
from cliploom.data.reader import Reader
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import Preprocess
from cliploom.errors import InputError
from cliploom.evaluation.datasets import open_dataset, samples
from cliploom.evaluation.suite import Entry
from cliploom.models import normalize_pixels
from cliploom.search import measuring
from cliploom.settings.search import Tune
from cliploom.training.run import Run, plan_run

BATCH, BATCHES = 12, 3
TUNE = Tune(held_out_batch=BATCH, held_out_batches=BATCHES)


def planned(tmp_path: Path, *settings: str) -> tuple[Run, str]:
    training, held_out = (pairs.write(tmp_path / name, shards=2) for name in ("training", "held-out"))
    size = ["train.global_batch_size=8", "train.samples=80", "model.name=ViT-mu-8-32"]
    place = ["run.name=trial", f"run.storage={tmp_path}", f"data.manifest={training}"]
    return plan_run(config.load(None, [*place, *size, *settings])), held_out


def test_held_out_loss_is_the_mean_of_plain_cross_entropies(tmp_path: Path) -> None:
    run, uri = planned(tmp_path)
    network = objectives.create("contrastive", run.model, 0).eval()
    found = measuring.held_out(run, uri, TUNE)
    losses = []
    for number in range(BATCHES):
        batch = Reader(found.source).read(WorkItem(0, 0, 0, number * BATCH, (number + 1) * BATCH, BATCH))
        with torch.no_grad():
            image = F.normalize(network.encode_image(normalize_pixels(torch.from_numpy(batch.pixels), torch.float32)))  # type: ignore[operator]
            text = F.normalize(network.encode_text(torch.from_numpy(batch.tokens)))  # type: ignore[operator]
            logits = network.logit_scale.exp() * image @ text.T  # type: ignore[operator]
            right = torch.arange(BATCH)
            losses.append((F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2)
    assert found.loss(network, "contrastive") == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_every_trial_is_measured_on_the_same_pairs(tmp_path: Path) -> None:
    run, uri = planned(tmp_path)
    other = plan_run(config.replaced(run.config, {"train.seed": 5, "train.global_batch_size": 16}))
    assert measuring.held_out(run, uri, TUNE) == measuring.held_out(other, uri, TUNE)
    larger = plan_run(config.replaced(run.config, {"model.factor": 8}))
    assert larger.model.image_size != run.model.image_size
    source = measuring.held_out(larger, uri, TUNE).source
    assert replace(source, image_size=run.model.image_size) == measuring.held_out(run, uri, TUNE).source


@pytest.mark.parametrize("objective", ["captioning", "bag_of_words", "sigmoid", "bag_of_words_contrastive"])
def test_every_objective_has_a_held_out_loss(tmp_path: Path, objective: str) -> None:
    run, uri = planned(tmp_path, f"objective.name={objective}")
    network = objectives.create(objective, replace(run.model), 0).eval()
    assert np.isfinite(measuring.held_out(run, uri, TUNE).loss(network, objective))


def test_too_few_held_out_pairs_are_refused(tmp_path: Path) -> None:
    run, uri = planned(tmp_path)
    with pytest.raises(InputError, match=r"has 48 pairs, fewer than 3 batches of 17: lower tune\.held_out_batches"):
        measuring.held_out(run, uri, Tune(held_out_batch=17, held_out_batches=3))


def test_zeroshot_accuracy_is_the_share_of_images_whose_class_scores_highest(tmp_path: Path) -> None:
    run, _ = planned(tmp_path)
    root = evaluation_sets.classification(tmp_path / "set")
    network = objectives.create("contrastive", run.model, 0).eval()
    dataset = open_dataset(Entry(dataset=str(root), name="set", tasks=("zeroshot_classification",)), ".")
    encode = Tokenizer()
    prompts = encode([dataset.templates[0].replace("{c}", name) for name in dataset.classnames])
    right = []
    for shard in dataset.shards:
        for sample in samples(shard.uri):
            image = Preprocess(run.model.image_size)(Image.open(io.BytesIO(sample.image or b"")))[None]
            right.append(int(objectives.score(network, image, prompts).argmax()) == int(sample.label or b"-1"))
    assert measuring.zeroshot(network, run, str(root), 1000) == pytest.approx(np.mean(right))
    assert measuring.zeroshot(network, run, str(root), 5) == pytest.approx(np.mean(right[:5]))
