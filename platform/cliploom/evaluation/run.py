"""One evaluation: a model on a suite, from shards to rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cliploom.config import Evaluate
from cliploom.errors import InputError
from cliploom.evaluation import datasets, examples, features, retrieval, zeroshot
from cliploom.evaluation.datasets import Dataset
from cliploom.evaluation.examples import Example
from cliploom.evaluation.features import Done, Prompts, Source
from cliploom.evaluation.model import Model
from cliploom.evaluation.results import Measure, Row
from cliploom.evaluation.store import Features, FeatureStore, concatenate
from cliploom.evaluation.suite import KINDS, Entry, Suite, Task


class Broken(NamedTuple):
    """A sample that could not be measured, and why."""

    dataset: str
    key: str
    cause: str


class Curve(NamedTuple):
    """Where the first right answers stand: int64 [queries] from 0, among `gallery` answers."""

    name: str
    ranks: np.ndarray
    gallery: int
    right: float = 1.0  # right answers a query, on average


@dataclass(frozen=True)
class Finding:
    """What was found on one data set."""

    dataset: Dataset
    measures: dict[Task, list[Measure]]
    seconds: float  # of the model's compute and of the tasks
    model_seconds: float  # of the model's compute for images and captions
    samples: int  # measured
    captions: int
    broken: list[Broken]
    curves: list[Curve]
    examples: list[Example]


@dataclass(frozen=True)
class Outcome:
    """What was found on a suite."""

    suite: str
    model: Model
    rows: list[Row]
    findings: list[Finding]
    computed: Done
    seconds: float  # of the whole evaluation, start of the workers included


def open_suite(suite: Suite, root: str) -> list[Dataset]:
    """The data sets of a suite.

    Raises:
        InputError: one is not there, or of another kind than its tasks need.
    """
    opened = []
    for entry in suite.entries:
        dataset = datasets.open_dataset(entry, root)
        for task in entry.tasks:
            if KINDS[task] != dataset.kind:
                raise InputError(f"data set {entry.name} is made for {dataset.kind}: {task} can't be measured on it")
        opened.append(dataset)
    return opened


def sources(opened: Sequence[Dataset]) -> list[Source]:
    """What features are computed of: prompts and shards, each once, though several data sets may have them."""
    prompts = [_prompts(dataset) for dataset in opened if dataset.kind == "classification"]
    found: list[Source] = [*prompts, *(shard for dataset in opened for shard in dataset.shards)]
    return list({source.digest: source for source in found}.values())


def evaluate(
    suite: Suite,
    opened: Sequence[Dataset],
    model: Model,
    features_uri: str,
    settings: Evaluate,
    max_bad_fraction: float,
    progress: Callable[[Done], None] = lambda done: None,
) -> Outcome:
    """Measure `model` on the data sets of `suite`, on the Ray cluster that is connected.

    Args:
        suite: what to measure.
        opened: its data sets, from `open_suite`.
        model: which model.
        features_uri: folder that keeps features of all models; those that it has are not computed again.
        settings: batch size, workers and their resources.
        max_bad_fraction: of a data set's samples that may be broken.
        progress: is called as features come in.

    Raises:
        InputError: a shard is damaged, too many samples are broken, or the cluster is too small.
    """
    begun = time.perf_counter()
    precision = settings.precision if settings.gpus_per_worker else "fp32"
    store = FeatureStore(features_uri, model.digest, f"{model.image_size}px-{precision}")
    computed = features.extract(sources(opened), store, model, settings, progress)
    findings = []
    for entry, dataset in zip(suite.entries, opened, strict=True):
        parts = [store.load(shard.digest) for shard in dataset.shards]
        if dataset.kind == "classification":
            classes = store.load(_prompts(dataset).digest)
            findings.append(_classify(entry, dataset, parts, classes, model, max_bad_fraction))
        else:
            findings.append(_retrieve(entry, dataset, parts, model, max_bad_fraction))
    rows = [row for finding in findings for row in _rows(suite, model, finding)]
    return Outcome(suite.name, model, rows, findings, computed, time.perf_counter() - begun)


def _prompts(dataset: Dataset) -> Prompts:
    return Prompts(dataset.classnames, dataset.templates)


def _classify(
    entry: Entry, dataset: Dataset, parts: list[Features], classes: Features, model: Model, max_bad_fraction: float
) -> Finding:
    begun = time.perf_counter()
    count = len(dataset.classnames)
    whole = zeroshot.checked(concatenate(parts), count)
    broken = _broken(dataset, whole, max_bad_fraction)
    usable = whole.usable()
    ranks, truth = zeroshot.rank(usable, classes.texts), zeroshot.labels(usable)
    measures = {task: zeroshot.measure(ranks, truth, count, entry.metrics_of(task)) for task in entry.tasks}
    seconds = time.perf_counter() - begun + float(whole.seconds.sum() + classes.seconds.sum())
    places = examples.origins([len(part) for part in parts], whole.causes == "")
    return Finding(
        dataset=dataset,
        measures=measures,
        seconds=seconds,
        model_seconds=float(whole.seconds.sum()),
        samples=len(usable),
        captions=0,
        broken=broken,
        curves=[Curve(dataset.name, ranks, count)],
        examples=examples.predictions(dataset, usable, truth, places, classes.texts, model.logit_scale),
    )


def _retrieve(entry: Entry, dataset: Dataset, parts: list[Features], model: Model, max_bad_fraction: float) -> Finding:
    begun = time.perf_counter()
    whole = retrieval.checked(concatenate(parts))
    broken = _broken(dataset, whole, max_bad_fraction)
    usable = whole.usable()
    images, texts = retrieval.rank_images(usable), retrieval.rank_texts(usable)
    measures = {task: retrieval.measure(images, texts, usable.owners, entry.metrics_of(task)) for task in entry.tasks}
    seconds = time.perf_counter() - begun + float(whole.seconds.sum())
    places = examples.origins([len(part) for part in parts], whole.causes == "")
    return Finding(
        dataset=dataset,
        measures=measures,
        seconds=seconds,
        model_seconds=float(whole.seconds.sum()),
        samples=len(usable),
        captions=len(usable.captions),
        broken=broken,
        curves=[
            Curve(f"{dataset.name}: image of a caption", images, len(texts)),
            Curve(f"{dataset.name}: caption of an image", texts, len(images), len(images) / len(texts)),
        ],
        examples=examples.retrievals(dataset, usable, places, model.logit_scale),
    )


def _broken(dataset: Dataset, whole: Features, max_bad_fraction: float) -> list[Broken]:
    """The samples with a cause; too many of them stop the evaluation."""
    found = [Broken(dataset.name, str(whole.keys[i]), str(whole.causes[i])) for i in np.flatnonzero(whole.causes != "")]
    if len(found) > max_bad_fraction * len(whole) or len(found) == len(whole):
        cause, count = Counter(one.cause for one in found).most_common(1)[0]
        raise InputError(
            f"data set {dataset.name}: {len(found)} of {len(whole)} samples can't be measured ({count} x {cause}; the "
            f"first is {found[0].key}), more than data.max_bad_fraction={max_bad_fraction:g}: see {dataset.uri}"
        )
    return found


def _rows(suite: Suite, model: Model, finding: Finding) -> list[Row]:
    return [
        Row(
            suite=suite.name,
            model=model.name,
            version=model.version,
            dataset=finding.dataset.name,
            task=task,
            metric=measure.metric,
            value=measure.estimate.value,
            low=measure.estimate.low,
            high=measure.estimate.high,
            chance=measure.chance,
            samples=measure.samples,
            seconds=round(finding.seconds, 3),
        )
        for task, measures in finding.measures.items()
        for measure in measures
    ]
