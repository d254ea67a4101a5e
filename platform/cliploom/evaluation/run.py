"""One evaluation: a model on a suite, from shards to rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cliploom.errors import InputError
from cliploom.evaluation import contamination, datasets, features, robustness, shifts
from cliploom.evaluation.contamination import Contamination
from cliploom.evaluation.datasets import Dataset
from cliploom.evaluation.features import Done, Pictures, Source
from cliploom.evaluation.findings import Finding, fewer_prompts, find, prompts
from cliploom.evaluation.model import Model
from cliploom.evaluation.results import Row
from cliploom.evaluation.robustness import Shift
from cliploom.evaluation.store import FeatureStore
from cliploom.evaluation.suite import BINARY, KINDS, MULTILABEL, TOP_FIVE, Entry, Suite, Task
from cliploom.settings.evaluation import Evaluate


@dataclass(frozen=True)
class Outcome:
    """What was found on a suite."""

    suite: str
    model: Model
    rows: list[Row]
    findings: list[Finding]
    shifts: list[Shift]
    overlaps: list[Contamination]
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
            _check(entry, task, dataset)
        opened.append(dataset)
    by_name = {dataset.name: dataset for dataset in opened}
    for entry, dataset in zip(suite.entries, opened, strict=True):
        if entry.shift_of is not None:
            shifts.check(dataset, by_name[entry.shift_of])
    return opened


def _check(entry: Entry, task: Task, dataset: Dataset) -> None:
    if dataset.kind not in KINDS[task]:
        raise InputError(f"data set {entry.name} is made for {dataset.kind}: {task} can't be measured on it")
    wanted, classes = entry.wanted(task), len(dataset.classnames)
    if dataset.kind == "multilabel" and not set(wanted) <= set(MULTILABEL):
        raise InputError(f"data set {entry.name} is multilabel: its entry needs metrics: [{MULTILABEL[0]}]")
    if classes < 5 and wanted and wanted[0] in TOP_FIVE:
        raise InputError(f"data set {entry.name} has {classes} classes: {wanted[0]} needs five, so put another first")
    if BINARY in wanted and classes != 2:
        raise InputError(f"data set {entry.name} has {classes} classes: {BINARY} is of two alone")


def sources(entries: Sequence[Entry], opened: Sequence[Dataset], training: Sequence[Pictures] = ()) -> list[Source]:
    """What features are computed of: prompts and shards, each once, though several data sets may have them."""
    texts = [prompts(dataset) for dataset in opened if dataset.kind != "retrieval"]
    for entry, dataset in zip(entries, opened, strict=True):
        texts += fewer_prompts(entry, dataset).values()
    shards = [shard for one in opened for shard in (*one.shards, *one.training, *one.validation)]
    found: list[Source] = [*texts, *shards, *training]
    return list({source.digest: source for source in found}.values())


def evaluate(
    suite: Suite,
    opened: Sequence[Dataset],
    model: Model,
    training: Sequence[Pictures],
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
        training: the training shards to look for overlap in, from `contamination.training`.
        features_uri: folder that keeps features of all models; those that it has are not computed again.
        settings: batch size, workers and their resources.
        max_bad_fraction: of a data set's samples that may be broken.
        progress: is called as features come in.

    Raises:
        InputError: a shard is damaged, too many samples are broken, or the cluster is too small.
    """
    begun = time.perf_counter()
    known = robustness.read(settings.references) if settings.references else {}
    store = FeatureStore(features_uri, model.digest, f"{model.image_size}px-{features.compute(settings).precision}")
    computed = features.extract(sources(suite.entries, opened, training), store, model, settings, progress)
    pairs = list(zip(suite.entries, opened, strict=True))
    findings = [find(entry, dataset, store, model, max_bad_fraction) for entry, dataset in pairs]
    by_name = {finding.dataset.name: finding for finding in findings}
    shifted = [
        shift
        for finding in findings
        if finding.entry.shift_of is not None
        for shift in shifts.find(finding, by_name[finding.entry.shift_of], store, known, max_bad_fraction)
    ]
    overlaps = contamination.find(findings, training, store, settings.overlap, max_bad_fraction) if training else []
    rows = [row for finding in findings for row in _rows(suite, model, finding)]
    return Outcome(suite.name, model, rows, findings, shifted, overlaps, computed, time.perf_counter() - begun)


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
