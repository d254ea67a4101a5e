"""A suite: which data sets are measured, by which tasks and metrics. A YAML list of entries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cliploom import storage
from cliploom.config import nearest
from cliploom.errors import InputError

Task = Literal["zeroshot_classification", "zeroshot_retrieval"]
Kind = Literal["classification", "retrieval"]

METRICS: dict[Task, tuple[str, ...]] = {
    "zeroshot_classification": ("acc1", "acc5", "mean_per_class_recall"),
    "zeroshot_retrieval": tuple(f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 5, 10)),
}
KINDS: dict[Task, Kind] = {"zeroshot_classification": "classification", "zeroshot_retrieval": "retrieval"}


class Entry(BaseModel):
    """One data set of a suite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(description="URI of the data set, or its path below `evaluate.root`")
    name: str = Field(pattern=r"^[^/\s]+$", description="in results; by default the last part of `dataset`")
    tasks: tuple[Task, ...] = Field(min_length=1)
    split: str = "test"
    metrics: tuple[str, ...] | None = Field(None, description="by default all of the tasks")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, entry: Any) -> Any:
        if isinstance(entry, dict) and isinstance(entry.get("dataset"), str):
            return {"name": storage.name(entry["dataset"]), **entry}
        return entry

    def metrics_of(self, task: Task) -> tuple[str, ...]:
        """The metrics that are asked for of `task`."""
        return METRICS[task] if self.metrics is None else tuple(m for m in METRICS[task] if m in self.metrics)


@dataclass(frozen=True)
class Suite:
    """A named list of entries; made by `load`."""

    name: str
    entries: tuple[Entry, ...]


def load(path: str) -> Suite:
    """The suite in the YAML file `path`, named as the file.

    Raises:
        InputError: no such file, no list, an unknown key, task or metric (with the nearest known one), a name twice.
    """
    rows = _read(path)
    entries = tuple(_entry(path, number, row) for number, row in enumerate(rows, 1))
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"suite {path}: two entries are named {name}; give one another `name`")
    return Suite(Path(path).stem, entries)


def _read(path: str) -> list[Any]:
    try:
        rows = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"evaluate.suite: there is no suite file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"the suite {path} can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"the suite {path} holds no list of data sets")
    return rows


def _entry(path: str, number: int, row: Any) -> Entry:
    try:
        entry = Entry.model_validate(row)
    except ValidationError as error:
        raise InputError(f"suite {path}, entry {number}: {_explain(error)}") from None
    known = [metric for task in entry.tasks for metric in METRICS[task]]
    for metric in entry.metrics or ():
        if metric not in known:
            tasks = " and ".join(entry.tasks)
            raise InputError(f"suite {path}, entry {number}: {metric} is no metric of {tasks}{nearest(metric, known)}")
    return entry


def _explain(error: ValidationError) -> str:
    fault = min(
        error.errors(), key=lambda one: one["type"] != "extra_forbidden"
    )  # a key that is misspelt is missing too
    key, given = str(fault["loc"][0]) if fault["loc"] else "", fault["input"]
    match fault["type"]:
        case "extra_forbidden":
            return f"unknown key {key}{nearest(key, list(Entry.model_fields))}"
        case "missing":
            return f"{key} is missing"
        case "literal_error":
            return f"{given} is no task{nearest(str(given), list(METRICS))}"
        case _:
            message = fault["msg"][:1].lower() + fault["msg"][1:]
            return f"{key or 'entry'}: {message}, but it is {given!r}"
