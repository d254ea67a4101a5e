"""A search from its settings to its findings: which trials, what they said, and the files that tell of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cliploom import storage
from cliploom.config import Config, require
from cliploom.errors import InputError
from cliploom.search import carry, plots, scaling, space, tpe
from cliploom.search.begun import check_goes_on
from cliploom.search.frontier import fit_all
from cliploom.search.methods import Curve, ratios
from cliploom.search.points import held_out
from cliploom.search.records import LOSS, Records, Trial
from cliploom.search.space import Settings
from cliploom.search.splits import split
from cliploom.search.trial import Training

_FORMAT = 1  # version of results.json


@dataclass(frozen=True)
class Search:
    """A search that is worked out and checked, before anything is started for it.

    Attributes:
        config: of the job.
        folder: URI of all that the search keeps.
        training: the work of its trials.
        records: of its trials.
        proposals: the settings of all trials, or of trial n when it begins.
    """

    config: Config
    folder: str
    training: Training
    records: Records
    proposals: Callable[[int], Settings] | Sequence[Settings]

    @property
    def total(self) -> int:
        """How many trials there are."""
        return self.config.tune.trials if callable(self.proposals) else len(self.proposals)


def plan(config: Config) -> Search:
    """Work out the search that `config` means.

    Raises:
        InputError: the settings don't make one, or it was begun with others.
    """
    require(config, "run.name", "data.manifest")
    folder = storage.join(storage.absolute(config.run.storage), str(config.run.name))
    kind = config.tune.kind
    records = Records(folder)
    check_goes_on(config, records)
    parts = split(config, folder, config.tune.scale.data if kind == "scale" else [1.0])
    if kind != "scale" and parts.training[1.0]:
        config = config.model_copy(update={"data": config.data.model_copy(update={"manifest": parts.training[1.0]})})
    training = Training(config, folder, parts.held_out)
    proposals: Callable[[int], Settings] | Sequence[Settings]
    match kind:
        case "settings":
            _check_space(training)
            proposals = _draws(config, records)
        case "scale":
            proposals = scaling.grid(training, parts)
        case _:
            if not config.tune.zeroshot:
                raise InputError("objectives are compared by zero-shot accuracy: give tune.zeroshot")
            proposals = [{"objective.name": name} for name in config.tune.objectives]
    for settings in proposals if not callable(proposals) else [proposals(0)]:
        training.run(0, settings)  # what makes no run is said now
    return Search(config, folder, training, records, proposals)


def tidy(search: Search) -> None:
    """Remove the checkpoints of all trials; their weights and what they were measured at stay."""
    for trial in search.records.all():
        branch = search.records.branch(trial.number)
        for generation in range(branch.generation + 1 if branch else 1):
            search.training.tidy(trial.number, generation)


def summarize(search: Search) -> dict[str, Any]:
    """What the search found, as values that JSON holds."""
    trials, config = search.records.all(), search.config
    found: dict[str, Any] = {
        "format_version": _FORMAT,
        "search": config.run.name,
        "kind": config.tune.kind,
        "trials": [
            {
                "name": search.training.name(trial.number),
                "settings": trial.settings,
                "status": trial.status,
                "reason": trial.reason,
                "points": trial.points,
            }
            for trial in trials
        ],
    }
    done = [trial for trial in trials if trial.status == "finished"]
    if not done:
        return found
    match config.tune.kind:
        case "settings":
            best = min(done, key=lambda trial: trial.points[-1][LOSS])
            found["best"] = {"name": search.training.name(best.number), "settings": best.settings, LOSS: best.loss}
            if config.tune.carry:
                found["carried"] = [row._asdict() for row in carry.carry(config, best.settings)]
        case "scale":
            found |= scaling.summarize(config, scaling.points(search.training, done))
        case _:
            found["ratios"] = [one.describe() for one in ratios(_curves(done))]
    return found


def write(search: Search, found: dict[str, Any]) -> list[str]:
    """Write the findings and their plots to the search's folder; returns their URIs."""
    trials = search.records.all()
    done = [trial for trial in trials if trial.status == "finished"]
    files: dict[str, bytes] = {"results.json": json.dumps(found, indent=1, allow_nan=False).encode()}
    if done and search.config.tune.kind == "settings":
        files["trials.svg"] = plots.trials(trials)
        if search.config.tune.carry:
            best = min(done, key=lambda trial: trial.points[-1][LOSS])
            rows = carry.carry(search.config, best.settings)
            files["carried.yaml"] = carry.config_file(search.config, rows).encode()
    elif done and search.config.tune.kind == "scale":
        points = scaling.points(search.training, done)
        files["scaling.svg"] = plots.scaling(points, fit_all(held_out(points)[0]))
    elif done:
        files["methods.svg"] = plots.methods(_curves(done))
    for name, content in files.items():
        storage.write(storage.join(search.folder, name), content)
    return [storage.join(search.folder, name) for name in files]


def _draws(config: Config, records: Records) -> Callable[[int], Settings]:
    tune = config.tune

    def draw(number: int) -> Settings:
        if tune.method != "tpe":
            return space.draw(tune.space, tune.seed, number)
        known = [(trial.settings, trial.points[-1][LOSS]) for trial in records.all() if trial.status == "finished"]
        return tpe.propose(tune.space, tune.seed, number, known)

    return draw


def _check_space(training: Training) -> None:
    tune = training.config.tune
    if not tune.space:
        raise InputError("there is nothing to search: give tune.space")
    space.check(tune.space)
    if tune.method == "pbt":
        run = training.run(0, space.draw(tune.space, tune.seed, 0))
        fixed = {*run.settings, "train.samples", "train.epochs", "train.workers", "train.micro_batch_size"}
        if found := sorted(fixed & tune.space.keys()):
            raise InputError(f"tune.space: {found[0]} can't change while a run trains, as tune.method=pbt has it")


def _curves(trials: Sequence[Trial]) -> list[Curve]:
    return [
        Curve(
            str(trial.settings["objective.name"]),
            tuple(point["samples"] for point in trial.points),
            tuple(point["acc1"] for point in trial.points),
        )
        for trial in trials
    ]
