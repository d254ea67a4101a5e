"""The grid of a scaling search: which models, on how much, and what its points say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cliploom.config import Config
from cliploom.data import mixture as mixtures
from cliploom.data.manifest import Manifest
from cliploom.errors import InputError
from cliploom.search import frontier, laws
from cliploom.search.carry import image_compute, learning_rate
from cliploom.search.points import Point, held_out, repeated
from cliploom.search.records import LOSS, Trial
from cliploom.search.space import Settings
from cliploom.search.splits import Split
from cliploom.search.trial import Training


def grid(training: Training, split: Split) -> list[Settings]:
    """The settings of all trials, the cheapest first; repeats of that with other seeds last.

    `train.learning_rate` is the rate for `model` as it stands, and is carried from there to each size (see `carry`):
    one for all would be too high for the largest or too low for the smallest, and bend the laws.

    Raises:
        InputError: the settings make no grid.
    """
    scale = training.config.tune.scale
    if bool(scale.samples) == bool(scale.flops):
        raise InputError("give either tune.scale.samples or tune.scale.flops")
    rows: list[tuple[float, Settings]] = []
    for factor in scale.factors:
        for share in scale.data:
            place: Settings = {"model.factor": factor, "train.learning_rate": _learning_rate(training.config, factor)}
            if split.training[share]:
                place["data.manifest"] = split.training[share]
            sample_flops = _sample_flops(training, place)
            for budget in scale.samples or scale.flops:
                samples = _whole_batches(budget if scale.samples else budget / sample_flops, training.config)
                rows.append((samples * sample_flops, {**place, "train.samples": samples}))
    ordered = [settings for _, settings in sorted(rows, key=lambda row: row[0])]
    seed = training.config.train.seed
    return ordered + [{**ordered[0], "train.seed": seed + number} for number in range(1, scale.seeds)]


def points(training: Training, trials: Sequence[Trial]) -> list[Point]:
    """What the finished trials say."""
    from cliploom.training.cost import estimate

    found = []
    for trial in trials:
        if trial.status != "finished":
            continue
        run = training.run(trial.number, trial.settings)
        cost = estimate(run)
        model = run.config.model
        found.append(
            Point(
                name=run.config.run.name,
                model=f"{model.name} x {model.factor:g}",
                factor=model.factor,
                parameters=cost.parameters,
                sample_flops=cost.sample_flops,
                samples=cost.samples,
                data=_samples(mixtures.choose(run.config.data).manifests),
                error=trial.points[-1][LOSS],
                seed=run.config.train.seed,
                batch=run.config.train.global_batch_size,
            )
        )
    return found


def summarize(config: Config, found: Sequence[Point]) -> dict[str, Any]:
    """Laws, the check on the points that were held out, the noise of seeds, frontier and recommendation."""
    fitted, checked = held_out(found)
    fits = frontier.fit_all(fitted)
    wanted = target_flops(config)
    recommended = frontier.recommend(fitted, fits, wanted) if wanted else None
    return {
        "points": [{**asdict(point), "flops": point.flops} for point in found],
        "laws": fits.describe(),
        "held_out": [_check(fits, point) for point in checked],
        "seeds": [_spread(group) for group in repeated(found)],
        "frontier": [point.name for point in frontier.frontier(found)],
        "recommendation": _described(config, recommended)
        if recommended
        else ("not identifiable: the points leave the best model open" if wanted else None),
    }


def target_flops(config: Config) -> float | None:
    """The compute that a model is to be recommended for.

    Raises:
        InputError: it is in GPU-hours, without a rate.
    """
    scale = config.tune.scale
    if scale.for_gpu_hours is None:
        return scale.for_flops
    if config.cost.flops_per_second is None:
        raise InputError("tune.scale.for_gpu_hours needs a GPU's rate: give cost.flops_per_second")
    return scale.for_gpu_hours * 3600 * config.cost.flops_per_second


def _described(config: Config, recommended: frontier.Recommendation) -> dict[str, Any]:
    """The recommendation with the settings that go with it; a factor is a model's compute of an image."""
    return {
        **recommended.describe(),
        "global_batch_size": config.train.global_batch_size,
        "batch_rule": "as in the search",
        "learning_rate": learning_rate(config.train.learning_rate, recommended.factor / config.model.factor),
    }


def _check(fits: frontier.Fits, point: Point) -> dict[str, Any]:
    inputs: dict[str, list[float]] = {
        "compute": [point.flops],
        "compute_floor": [point.flops],
        "joint": [point.parameters, point.samples],
    }
    found: dict[str, Any] = {"name": point.name, "measured": point.error}
    for name, law in fits.named():
        if law and law.freedom and name in inputs:  # without freedom its interval has no bounds: that checks nothing
            checked = laws.check(law, inputs[name], point.error)
            found[name] = {"predicted": checked.predicted.describe(), "inside": checked.inside}
    return found


def _spread(group: Sequence[Point]) -> dict[str, Any]:
    errors = np.array([point.error for point in group])
    return {"names": [p.name for p in group], "errors": errors.tolist(), "spread": float(np.log(errors).std(ddof=1))}


def _sample_flops(training: Training, settings: Settings) -> float:
    from cliploom.training.cost import estimate

    batch = training.config.train.global_batch_size
    return estimate(training.run(0, {**settings, "train.samples": batch})).sample_flops


def _learning_rate(config: Config, factor: float) -> float:
    found, model = config.train.learning_rate, config.model
    return learning_rate(found, image_compute(model.name, factor) / image_compute(model.name, model.factor))


def _whole_batches(samples: float, config: Config) -> int:
    size = config.train.global_batch_size
    return max(1, math.floor(samples / size)) * size


def _samples(manifests: Sequence[Manifest]) -> int:
    return sum(manifest.samples for manifest in manifests)
