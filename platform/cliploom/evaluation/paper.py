"""What is published of the models of Radford et al. (2021): the paper's tables 10 and 11, what its text says of them,
and what open_clip measured of the released weights on data sets that these tables lack."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

Table = Mapping[str, Mapping[str, float]]  # model: data set: share between 0 and 1


class Relation(NamedTuple):
    """How zero-shot and probe go together over data sets (figure 8)."""

    pearson: float
    slope: float  # of zero-shot by probe, in least squares
    within: list[str]  # data sets on which zero-shot is within three points of the probe, rounded
    low: float  # of the slope's 95 % interval, by Student's t
    high: float


def zeroshot() -> Table:
    """Table 11."""
    return _read("zeroshot.csv")


def linear_probe() -> Table:
    """Table 10."""
    return _read("linear_probe.csv")


def beyond() -> Table:
    """Zero-shot on shifts of ImageNet, and recall at 1 of the image of a caption, by open_clip's evaluation of the
    released weights. Its prompts and caption prompts are not all the paper's."""
    return _read("beyond.csv")


def datasets() -> list[str]:
    """The data sets of the tables of zero-shot results."""
    return [name for table in (zeroshot(), beyond()) for name in next(iter(table.values()))]


def relate(names: Sequence[str], zero: Sequence[float], probe: Sequence[float]) -> Relation:
    """Pearson's correlation of zero-shot and probe over three data sets or more, and their line."""
    x, y = np.asarray(probe), np.asarray(zero)
    line = linregress(x, y)
    half = float(line.stderr * student.ppf(0.975, len(x) - 2))
    close = [name for name, gap in zip(names, np.abs(x - y), strict=True) if round(100 * gap) <= 3]
    return Relation(float(line.rvalue), float(line.slope), close, float(line.slope) - half, float(line.slope) + half)


def _read(name: str) -> Table:
    text = resources.files("cliploom.evaluation").joinpath("published", name).read_text(encoding="utf-8")
    return {
        row["model"]: {key: float(value) / 100 for key, value in row.items() if key != "model"}
        for row in csv.DictReader(text.splitlines())
    }
