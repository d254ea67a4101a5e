"""What is found on one data set: its features, and every task of its entry on them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cliploom.errors import InputError
from cliploom.evaluation import classes as by_class
from cliploom.evaluation import examples, fewshot, labels, probe, ranks, retrieval, zeroshot
from cliploom.evaluation.classes import ByClass
from cliploom.evaluation.datasets import Dataset, Shard
from cliploom.evaluation.examples import Example
from cliploom.evaluation.features import Prompts
from cliploom.evaluation.fewshot import Shot
from cliploom.evaluation.intervals import Estimate
from cliploom.evaluation.metrics import measurable
from cliploom.evaluation.model import Model
from cliploom.evaluation.probe import Labelled, Probe
from cliploom.evaluation.results import Measure
from cliploom.evaluation.store import Features, FeatureStore, concatenate
from cliploom.evaluation.suite import BINARY, SHOTS, Entry, Task


class Broken(NamedTuple):
    """A sample that could not be measured, and why. The key of a sample of another split begins with the split's."""

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

    entry: Entry
    dataset: Dataset
    measures: dict[Task, list[Measure]]
    seconds: float  # of the model's compute and of the tasks
    model_seconds: float  # of the model's compute for images and captions
    samples: int  # measured
    looked_at: int  # samples of all splits that were read, the broken ones included
    captions: int
    broken: list[Broken]
    warnings: list[str]  # where sizes are not those that the suite expects
    curves: list[Curve]
    examples: list[Example]
    probe: Probe | None = None
    shots: list[Shot] = field(default_factory=list)
    classes: ByClass | None = None  # of zero-shot answers; not of a multi-label set
    prompting: dict[str, Estimate] = field(default_factory=dict)  # what fewer prompts reach, in the first metric


class Split(NamedTuple):
    """The features of a split of a data set."""

    whole: Features
    usable: Features
    parts: list[int]  # samples of each shard
    broken: list[Broken]


def prompts(dataset: Dataset) -> Prompts:
    """What the embeddings of a data set's classes are computed of."""
    return Prompts(dataset.classnames, dataset.templates)


def fewer_prompts(entry: Entry, dataset: Dataset) -> dict[str, Prompts]:
    """What to hold zero-shot's ensemble of prompts against: the class's name alone, and its first prompt alone."""
    if "zeroshot_classification" not in entry.tasks or len(dataset.templates) < 2:
        return {}
    names = dataset.classnames
    return {"name alone": Prompts(names, ("{c}",)), "first prompt": Prompts(names, dataset.templates[:1])}


def load(
    dataset: Dataset, shards: Sequence[Shard], store: FeatureStore, max_bad_fraction: float, prefix: str = ""
) -> Split:
    """The features of a split's shards, which `store` has; keys of broken samples get the prefix.

    Raises:
        InputError: more than `max_bad_fraction` of the samples are broken.
    """
    parts = [store.load(shard.digest) for shard in shards]
    whole = concatenate(parts)
    if dataset.kind == "retrieval":
        whole = retrieval.checked(whole)
    else:
        whole = labels.checked(whole, dataset.kind, len(dataset.classnames))
    found = [
        Broken(dataset.name, f"{prefix}{whole.keys[i]}", str(whole.causes[i]))
        for i in np.flatnonzero(whole.causes != "")
    ]
    if len(found) > max_bad_fraction * len(whole) or len(found) == len(whole):
        cause, count = Counter(one.cause for one in found).most_common(1)[0]
        raise InputError(
            f"data set {dataset.name}: {len(found)} of {len(whole)} samples can't be measured ({count} x {cause}; the "
            f"first is {found[0].key}), more than data.max_bad_fraction={max_bad_fraction:g}: see {dataset.uri}"
        )
    return Split(whole, whole.usable(), [len(part) for part in parts], found)


def find(entry: Entry, dataset: Dataset, store: FeatureStore, model: Model, max_bad_fraction: float) -> Finding:
    """Everything that the entry asks for of its data set.

    Raises:
        InputError: too many samples are broken, or too few are there to train on.
    """
    test = load(dataset, dataset.shards, store, max_bad_fraction)
    task = _retrieve if dataset.kind == "retrieval" else _classify
    return task(entry, dataset, test, store, model, max_bad_fraction)


def _classify(
    entry: Entry, dataset: Dataset, test: Split, store: FeatureStore, model: Model, max_bad_fraction: float
) -> Finding:
    begun = time.perf_counter()
    classes, usable = store.load(prompts(dataset).digest), test.usable
    truth = labels.truth(usable, dataset.kind)
    _check_test(entry, truth)
    measures: dict[Task, list[Measure]] = {}
    prompting, detail = dict[str, Estimate](), None
    if "zeroshot_classification" in entry.tasks:
        wanted = entry.wanted("zeroshot_classification")
        measures["zeroshot_classification"] = zeroshot.measure(usable.images, truth, classes.texts, wanted)
        for name, fewer in fewer_prompts(entry, dataset).items():
            texts = store.load(fewer.digest).texts
            prompting[name] = zeroshot.measure(usable.images, truth, texts, wanted[:1])[0].estimate
        if truth.ndim == 1:
            known = by_class.attributes(dataset, entry.attributes, usable.keys.tolist())
            answers = ranks.nearest(usable.images, classes.texts)
            detail = by_class.find(dataset.classnames, truth, answers, known)
    trained = _trained(entry, dataset, Labelled(usable.hidden, truth), store, max_bad_fraction)
    places = examples.origins(test.parts, test.whole.causes == "")
    curves = []
    if truth.ndim == 1:
        curves = [Curve(dataset.name, zeroshot.rank(usable.images, truth, classes.texts), len(dataset.classnames))]
    return Finding(
        entry=entry,
        dataset=dataset,
        measures=measures | trained.measures,
        seconds=time.perf_counter() - begun + float(test.whole.seconds.sum() + classes.seconds.sum()),
        model_seconds=float(test.whole.seconds.sum()),
        samples=len(usable),
        looked_at=len(test.whole) + trained.looked_at,
        captions=0,
        broken=test.broken + trained.broken,
        warnings=_warnings(entry, len(test.whole), trained.looked_at, len(dataset.classnames)),
        curves=curves,
        examples=examples.predictions(dataset, usable, truth, places, classes.texts, model.logit_scale),
        probe=trained.probe,
        shots=trained.shots,
        classes=detail,
        prompting=prompting,
    )


class _Trained(NamedTuple):
    """What the tasks that train found."""

    measures: dict[Task, list[Measure]]
    probe: Probe | None
    shots: list[Shot]
    looked_at: int
    broken: list[Broken]


def _trained(entry: Entry, dataset: Dataset, test: Labelled, store: FeatureStore, max_bad_fraction: float) -> _Trained:
    """The linear probe and the few-shot probes, where the entry asks for them."""
    measures: dict[Task, list[Measure]] = {}
    fitted, shots = None, list[Shot]()
    if not dataset.training:
        return _Trained(measures, fitted, shots, 0, [])
    count = len(dataset.classnames)
    splits = [
        load(dataset, shards, store, max_bad_fraction, f"{name}/")
        for name, shards in ((entry.train, dataset.training), (entry.validation, dataset.validation))
        if shards
    ]
    train, *rest = [Labelled(one.usable.hidden, labels.truth(one.usable, dataset.kind)) for one in splits]
    if np.unique(train.truth, axis=0).shape[0] < 2:
        raise InputError(f"data set {dataset.name}: the training split {entry.train} has samples of one class alone")
    if "linear_probe" in entry.tasks:
        wanted = entry.wanted("linear_probe")
        _check_validation(entry, wanted[0], train, rest[0] if rest else None)
        fitted = probe.run(train, rest[0] if rest else None, test, count, wanted)
        measures["linear_probe"] = [one._replace(metric=f"lp_{one.metric}") for one in fitted.measures]
    if "few_shot" in entry.tasks:
        (metric,) = entry.wanted("few_shot")
        shots = fewshot.run(train, test, count, metric)
        if not shots:
            raise InputError(
                f"data set {entry.name}: few_shot needs two samples or more of a class in {entry.train}, and of both "
                f"classes for {BINARY}: add to this split, or leave few_shot out"
            )
        names = dict(zip(SHOTS, entry.metrics_of("few_shot"), strict=True))
        measures["few_shot"] = [
            Measure(names[shot.examples], shot.estimate, shot.chance, len(test.truth)) for shot in shots
        ]
    broken = [one for split in splits for one in split.broken]
    return _Trained(measures, fitted, shots, sum(len(split.whole) for split in splits), broken)


def _check_test(entry: Entry, truth: np.ndarray) -> None:
    """Find out whether the metrics say anything of the test split."""
    for metric in (metric for task in entry.tasks for metric in entry.wanted(task)):
        if not measurable(metric, truth):
            raise InputError(
                f"data set {entry.name}: {metric} says nothing of the split {entry.split}, whose samples are all of "
                "one kind: choose another split, or other metrics"
            )


def _check_validation(entry: Entry, metric: str, train: Labelled, validation: Labelled | None) -> None:
    """Find out whether the probe's penalty can be chosen."""
    if validation is None:
        held, where = train.truth[probe.held_out(train.truth)], f"a fifth of the split {entry.train}"
    else:
        held, where = validation.truth, f"the split {entry.validation}"
    if not measurable(metric, held):
        raise InputError(
            f"data set {entry.name}: {metric} can't choose the linear probe's penalty on {where}, which has no samples "
            "or all of one kind: add to it, or name another split as `validation`"
        )


def _retrieve(
    entry: Entry, dataset: Dataset, test: Split, store: FeatureStore, model: Model, max_bad_fraction: float
) -> Finding:
    begun = time.perf_counter()
    usable = test.usable
    images, texts = retrieval.rank_images(usable), retrieval.rank_texts(usable)
    measures = {task: retrieval.measure(images, texts, usable.owners, entry.wanted(task)) for task in entry.tasks}
    places = examples.origins(test.parts, test.whole.causes == "")
    return Finding(
        entry=entry,
        dataset=dataset,
        measures=measures,
        seconds=time.perf_counter() - begun + float(test.whole.seconds.sum()),
        model_seconds=float(test.whole.seconds.sum()),
        samples=len(usable),
        looked_at=len(test.whole),
        captions=len(usable.captions),
        broken=test.broken,
        warnings=_warnings(entry, len(test.whole), 0, 0),
        curves=[
            Curve(f"{dataset.name}: image of a caption", images, len(texts)),
            Curve(f"{dataset.name}: caption of an image", texts, len(images), len(images) / len(texts)),
        ],
        examples=examples.retrievals(dataset, usable, places, model.logit_scale),
    )


def _warnings(entry: Entry, samples: int, training: int, classes: int) -> list[str]:
    """Where a data set has not the sizes that its entry tells; zero is a size that was not looked at."""
    sizes = {
        "samples": (entry.samples, samples),
        "training samples": (entry.training_samples, training),
        "classes": (entry.classes, classes),
    }
    return [
        f"data set {entry.name} has {found:,} {what}, the suite expects {expected:,}"
        for what, (expected, found) in sizes.items()
        if expected is not None and found and found != expected
    ]
