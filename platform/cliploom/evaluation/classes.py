"""Zero-shot class by class: which classes are recognised, which are taken for which others, and for whom.

Radford et al. (2021, 7.1) look at the last on FairFace: accuracy by race, gender and age, and how often people of each
group are given a label that was added to the set and is nobody's.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cliploom.errors import InputError
from cliploom.evaluation.datasets import Dataset, samples
from cliploom.evaluation.intervals import Estimate, share

CONFUSIONS = 10  # most frequent ones that are kept


class Recall(NamedTuple):
    """How a class is recognised."""

    name: str
    samples: int
    right: int


class Confusion(NamedTuple):
    """Samples of one class that are taken for another."""

    truth: str
    answer: str
    samples: int


class Group(NamedTuple):
    """The samples that have one value of an attribute."""

    attribute: str
    value: str
    samples: int
    accuracy: Estimate
    nobodys: Estimate  # answered with a class that no sample is of


@dataclass(frozen=True)
class ByClass:
    """A data set's zero-shot answers, class by class."""

    recalls: list[Recall]  # of the classes that have samples, worst first
    confusions: list[Confusion]  # most frequent first
    groups: list[Group]  # by attribute, in the entry's order, and value


def find(
    names: Sequence[str], truth: np.ndarray, answers: np.ndarray, attributes: Mapping[str, Sequence[str]]
) -> ByClass:
    """Count the answers.

    Args:
        names: of the classes.
        truth: int64 [N].
        answers: int64 [N], the class that each sample is taken for.
        attributes: for each, its value of each sample; empty where that is not known.
    """
    sizes, right = (np.bincount(of, minlength=len(names)) for of in (truth, truth[answers == truth]))
    present = np.flatnonzero(sizes)
    order = sorted(present.tolist(), key=lambda c: (right[c] / sizes[c], -sizes[c]))
    wrong = Counter(zip(truth[answers != truth].tolist(), answers[answers != truth].tolist(), strict=True))
    return ByClass(
        [Recall(names[c], int(sizes[c]), int(right[c])) for c in order],
        [Confusion(names[one], names[other], count) for (one, other), count in wrong.most_common(CONFUSIONS)],
        [
            group
            for attribute, values in attributes.items()
            for group in _groups(attribute, np.array(values, np.str_), answers == truth, sizes[answers] == 0)
        ],
    )


def _groups(attribute: str, values: np.ndarray, right: np.ndarray, nobodys: np.ndarray) -> Iterable[Group]:
    for value in np.unique(values[values != ""]):
        rows = values == value
        yield Group(attribute, str(value), int(rows.sum()), share(right[rows]), share(nobodys[rows]))


def attributes(dataset: Dataset, wanted: Sequence[str], keys: Sequence[str]) -> dict[str, list[str]]:
    """The wanted attributes of a data set's samples, from their KEY.json.

    Args:
        dataset: whose shards are read.
        wanted: keys of KEY.json.
        keys: of the samples, in their order.

    Raises:
        InputError: no sample has one of them.
    """
    if not wanted:
        return {}
    known: dict[str, dict[str, str]] = defaultdict(dict)
    for shard in dataset.shards:
        for sample in samples(shard.uri):
            facts = _facts(sample.facts)
            for name in wanted:
                known[name][sample.key] = str(facts.get(name, ""))
    for name in wanted:
        if not any(known[name].values()):
            raise InputError(f"data set {dataset.name}: no KEY.json has the attribute {name}: see {dataset.uri}")
    return {name: [known[name].get(key, "") for key in keys] for name in wanted}


def _facts(data: bytes | None) -> Mapping[str, object]:
    try:
        facts = json.loads(data or b"{}")
    except ValueError:  # of a file that is not ours; its sample counts as one without attributes
        return {}
    return facts if isinstance(facts, dict) else {}
