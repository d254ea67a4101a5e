"""The numbers of CLIP_benchmark's own code on the same model and the same pictures.

It is installed without its dependencies, of which these metrics need scikit-learn and tqdm alone. Its top-k accuracy
fails with NumPy 2.4, so scikit-learn takes it of the logits that its code computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

import evaluation_sets as sets
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import Preprocess, open_image
from cliploom.evaluation import datasets, run, suite
from cliploom.evaluation.encoding import Encoder
from cliploom.evaluation.model import Model
from cliploom.settings.evaluation import Evaluate

classification = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
retrieval = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")

_POINTS = 0.001  # 0.1 percentage points


class _Loader:
    """Batches of a data set of ours, as CLIP_benchmark takes them from a DataLoader."""

    def __init__(self, dataset: datasets.Dataset, image_size: int) -> None:
        preprocess = Preprocess(image_size)
        samples = [sample for shard in dataset.shards for sample in datasets.samples(shard.uri)]
        self._images = torch.stack([preprocess(open_image(sample.image or b"")) for sample in samples])
        self._targets: Any
        if dataset.kind == "classification":
            self._targets = torch.tensor([int(sample.label or b"") for sample in samples])
        else:
            self._targets = [(sample.captions or b"").decode().splitlines() for sample in samples]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        for start in range(0, len(self._images), 10):
            yield self._images[start : start + 10], self._targets[start : start + 10]


@pytest.fixture
def opened(folder: Path, model: Model, without_ray: None) -> tuple[run.Outcome, list[datasets.Dataset]]:
    sets.classification(folder / "colours", samples=83, classes=9)
    sets.retrieval(folder / "pairs", samples=40)
    path = folder / "small.yaml"
    path.write_text(
        "- {dataset: colours, tasks: [zeroshot_classification]}\n- {dataset: pairs, tasks: [zeroshot_retrieval]}"
    )
    measured = suite.load(str(path))
    found = run.open_suite(measured, str(folder))
    return run.evaluate(measured, found, model, [], str(folder / "features"), Evaluate(batch_size=16), 0), found


def test_metrics_are_those_of_clip_benchmark(opened: tuple[run.Outcome, list[datasets.Dataset]], model: Model) -> None:
    outcome, (colours, pairs) = opened
    network, tokenize = Encoder(model.uri).model, Tokenizer()
    classifier = classification.zero_shot_classifier(
        network, tokenize, list(colours.classnames), list(colours.templates), "cpu", amp=False
    )
    loader = _Loader(colours, model.image_size)
    logits, truth = classification.run_classification(network, classifier, loader, "cpu", amp=False)
    expected = {
        "acc1": top_k_accuracy_score(truth, logits, k=1, labels=range(9)),
        "acc5": top_k_accuracy_score(truth, logits, k=5, labels=range(9)),
        "mean_per_class_recall": balanced_accuracy_score(truth, logits.argmax(1)),
    }
    loader = _Loader(pairs, model.image_size)
    expected |= retrieval.evaluate(network, loader, tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10])
    found = {row["metric"]: row["value"] for row in outcome.rows}
    assert found == pytest.approx(expected, abs=_POINTS)
    assert len(set(found.values())) > 4
