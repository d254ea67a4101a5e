"""How much of each data set is in the training shards too, what that does to results, and pairs for people to judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cliploom.data import manifest
from cliploom.evaluation import examples, findings, labels, overlap, zeroshot
from cliploom.evaluation.datasets import Shard
from cliploom.evaluation.duplicates import nearest
from cliploom.evaluation.features import Pictures
from cliploom.evaluation.findings import Finding
from cliploom.evaluation.overlap import Overlap
from cliploom.evaluation.store import FeatureStore
from cliploom.settings.evaluation import EvaluateOverlap

PAIRS = 6  # shown on either side of the threshold


class Pair(NamedTuple):
    """A test sample beside the training picture that is nearest."""

    key: str  # of the test sample
    picture: str  # data URI
    training: str  # data URI
    likeness: float  # of both laid over each other
    cosine: float  # of their embeddings
    duplicate: bool


class Contamination(NamedTuple):
    """What of a data set training holds."""

    overlap: Overlap
    pairs: list[Pair]  # around the threshold, nearest first
    duplicates: list[str]  # keys of the overlapping samples


def training(settings: EvaluateOverlap) -> list[Pictures]:
    """The training shards to compare with; none where no manifest is set.

    Raises:
        InputError: the manifest can't be read.
    """
    if settings.manifest is None:
        return []
    return [Pictures(shard.uri, f"pictures-{shard.digest}") for shard in manifest.load(settings.manifest).shards]


def find(
    found: Sequence[Finding],
    shards: Sequence[Pictures],
    store: FeatureStore,
    settings: EvaluateOverlap,
    max_bad_fraction: float,
) -> list[Contamination]:
    """Compare every single-label data set with the training shards, whose features `store` has."""
    judged = [
        _judge(finding, shards, store, settings, max_bad_fraction)
        for finding in found
        if finding.dataset.kind == "classification"
    ]
    corrected = overlap.bonferroni([one.overlap for one in judged])
    return [one._replace(overlap=other) for one, other in zip(judged, corrected, strict=True)]


def _judge(
    finding: Finding,
    shards: Sequence[Pictures],
    store: FeatureStore,
    settings: EvaluateOverlap,
    max_bad_fraction: float,
) -> Contamination:
    dataset = finding.dataset
    split = findings.load(dataset, dataset.shards, store, max_bad_fraction)
    test, truth = split.usable, labels.truth(split.usable, dataset.kind)
    near = nearest(test, len(shards), lambda number: store.load(shards[number].digest))
    same = near.likeness >= settings.min_likeness
    right = zeroshot.rank(test.images, truth, store.load(findings.prompts(dataset).digest).texts) < 1
    places = examples.origins(split.parts, split.whole.causes == "")
    chosen = [i for among in (same, ~same) for i in _around(near.likeness, among, settings.min_likeness)]
    chosen.sort(key=lambda i: -near.likeness[i])
    shown = examples.pictures(dataset.shards, [places[i] for i in chosen])
    others = [examples.Origin(*near.place[i].tolist()) for i in chosen]
    partners = examples.pictures([Shard(one.uri, one.digest) for one in shards], others)
    pairs = [
        Pair(str(test.keys[i]), one, other, float(near.likeness[i]), float(near.cosine[i]), bool(same[i]))
        for i, one, other in zip(chosen, shown, partners, strict=True)
    ]
    return Contamination(overlap.analyse(dataset.name, right, same), pairs, test.keys[same].tolist())


def _around(likeness: np.ndarray, among: np.ndarray, threshold: float) -> list[int]:
    """Of some samples, those that are nearest to the threshold: whom another one would decide on otherwise."""
    rows = np.flatnonzero(among & (likeness > 0))
    order = np.argsort(np.abs(likeness[rows] - threshold), kind="stable")
    return [int(i) for i in rows[order[:PAIRS]]]
