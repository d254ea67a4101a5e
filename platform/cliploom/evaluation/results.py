"""What an evaluation found, as rows: results.json is the list of them, results.csv the same as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from cliploom.evaluation.intervals import Estimate

AnyRow = Mapping[str, Any]  # as read back from a results.json, perhaps of another version


class Measure(NamedTuple):
    """One metric of one task on one data set."""

    metric: str
    estimate: Estimate
    chance: float  # what answers drawn at random would reach
    samples: int  # queries that the share is taken of


class Row(TypedDict):
    """One line of results; shares are between 0 and 1, low and high are the ends of the 95 % interval."""

    suite: str
    model: str
    version: int | None  # in the registry
    dataset: str
    task: str
    metric: str
    value: float
    low: float
    high: float
    chance: float
    samples: int
    seconds: float  # of the model's compute for the features that the task reads, and of the task itself


def to_json(rows: Sequence[Row]) -> bytes:
    """The rows as results.json."""
    return (json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def to_csv(rows: Sequence[Row]) -> bytes:
    """The rows as results.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, Row.__annotations__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def lookup(rows: Iterable[AnyRow], dataset: str, metric: str) -> AnyRow | None:
    """The row of a data set's metric, or None."""
    return next((row for row in rows if row["dataset"] == dataset and row["metric"] == metric), None)
