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

Task = Literal["zeroshot_classification", "linear_probe", "few_shot", "zeroshot_retrieval"]
Kind = Literal["classification", "multilabel", "retrieval"]

RANKED = ("acc1", "acc5", "mean_acc1_acc5", "mean_per_class_recall")  # follow from where the right class stands
TOP_FIVE = ("acc5", "mean_acc1_acc5")  # say nothing of fewer than five classes
BINARY = "roc_auc"  # of two classes alone
MULTILABEL = ("mean_average_precision_11point", "mean_average_precision")
SCORED = (BINARY, *MULTILABEL)  # need the scores of all classes
SHOTS = (1, 2, 4, 8, 16)

METRICS: dict[Task, tuple[str, ...]] = {
    "zeroshot_classification": (*RANKED, *SCORED),
    "linear_probe": (*RANKED, *SCORED),
    "few_shot": (*RANKED, *SCORED),
    "zeroshot_retrieval": tuple(f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 5, 10)),
}
DEFAULTS = dict.fromkeys(METRICS, ("acc1", "acc5", "mean_per_class_recall")) | {
    "zeroshot_retrieval": METRICS["zeroshot_retrieval"]
}
PREFIXES: dict[Task, tuple[str, ...]] = {  # of the metrics' names in results
    "zeroshot_classification": ("",),
    "linear_probe": ("lp_",),
    "few_shot": tuple(f"fs{examples}_" for examples in SHOTS),
    "zeroshot_retrieval": ("",),
}
KINDS: dict[Task, tuple[Kind, ...]] = {
    "zeroshot_classification": ("classification", "multilabel"),
    "linear_probe": ("classification", "multilabel"),
    "few_shot": ("classification",),
    "zeroshot_retrieval": ("retrieval",),
}
TRAINED: tuple[Task, ...] = ("linear_probe", "few_shot")  # read training samples


class Entry(BaseModel):
    """One data set of a suite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(description="URI of the data set, or its path below `evaluate.root`")
    name: str = Field(pattern=r"^[^/\s]+$", description="in results; by default the last part of `dataset`")
    tasks: tuple[Task, ...] = Field(min_length=1)
    split: str = "test"
    train: str = Field("train", description="split that probes are trained on")
    validation: str | None = Field(None, description="split that chooses their penalty; by default a fifth of train")
    metrics: tuple[str, ...] | None = Field(
        None, min_length=1, description="by default DEFAULTS; the first one decides"
    )
    frames: int = Field(1, ge=1, description="of a video, whose embeddings are averaged; 1 is the middle one")
    caption_prompt: str = Field("{c}", pattern=r"\{c\}", description="that captions are put into, for retrieval")
    attributes: tuple[str, ...] = Field((), description="keys of KEY.json by whose values results are parted")
    shift_of: str | None = Field(None, description="entry whose data set this one is a distribution shift of")
    samples: int | None = Field(None, ge=1, description="of the split; another number is warned of")
    training_samples: int | None = Field(None, ge=1, description="of train and validation together")
    classes: int | None = Field(None, ge=1, description="how many the data set has")
    paper: str | None = Field(None, description="the data set's name in the paper's tables of results")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, entry: Any) -> Any:
        if isinstance(entry, dict) and isinstance(entry.get("dataset"), str):
            return {"name": storage.name(entry["dataset"]), **entry}
        return entry

    def wanted(self, task: Task) -> tuple[str, ...]:
        """The metrics that are asked for of `task`; few-shot probes have the first one alone."""
        known = DEFAULTS[task] if self.metrics is None else tuple(m for m in self.metrics if m in METRICS[task])
        return known[:1] if task == "few_shot" else known

    def metrics_of(self, task: Task) -> tuple[str, ...]:
        """The same as they are called in results."""
        return tuple(prefix + metric for prefix in PREFIXES[task] for metric in self.wanted(task))


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
    for entry in entries:
        if entry.shift_of is not None and entry.shift_of not in names:
            raise InputError(f"suite {path}: {entry.name} is a shift of {entry.shift_of}, which the suite has not got")
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
    if entry.paper is not None:
        _check_paper(f"suite {path}, entry {number}", entry.paper)
    return entry


def _check_paper(place: str, name: str) -> None:
    from cliploom.evaluation import paper  # and SciPy with it, which the workers that import this file do without

    known = paper.datasets()
    if name not in known:
        raise InputError(f"{place}: the paper has no results on {name}{nearest(name, known)}")


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
