"""Ray Tune: many trials at once on the connected cluster, with what is known of them on storage.

Tune's own state is never restored. A search that is run again gives Tune the same trials: one that has ended says again
what it was measured at and is done in a moment, so that ASHA knows it, and the others go on from their checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from cliploom import pools
from cliploom.errors import InputError
from cliploom.search import space as spaces
from cliploom.search.records import LOSS, Branch, Measured, Records, Status
from cliploom.search.space import Settings
from cliploom.settings.search import Span, Tune

_ACTOR_CPUS = 0.01  # of the process that watches a trial; Tune refuses 0
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # or settings' relative paths would mean something else in a trial
    "RAY_AIR_NEW_OUTPUT": "0",  # tells of the experiment at any verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
_NUMBER = "number"
_ENDED, _REASON, _NEW = "ended", "reason", "new"  # keys of results beside the measured
Report = Callable[[Measured], None]


@dataclass(frozen=True)
class Start:
    """What a trial's work begins with, or goes on with.

    Attributes:
        number: of the trial.
        branch: its settings, and where they go on from.
        known: what it has been measured at.
    """

    number: int
    branch: Branch
    known: list[Measured]


class Work(Protocol):
    """What a trial does, in a process of its own on any node."""

    def __call__(self, start: Start, report: Report, stop: threading.Event) -> None:
        """Work to the end, or until `stop` is set, reporting what is measured; a second try goes on from the first.

        Raises:
            InputError: the settings make no run, so that trying again is of no use.
        """


class Observer(Protocol):
    """Who is told, in the driver, how trials fare; what was so before the search was run again is not told."""

    def began(self, number: int, settings: Settings) -> None:
        """A trial has begun, or goes on."""

    def measured(self, number: int, settings: Settings, point: Measured) -> None:
        """A trial was measured."""

    def ended(self, number: int, status: Status, reason: str) -> None:
        """A trial has ended; told again if the driver is killed before that is recorded."""

    def recorded(self, number: int, status: Status) -> None:
        """It is on storage that a trial has ended: its checkpoints are not needed to go on."""


def concurrency(settings: Tune, needs: dict[str, float], pool: str | None = None) -> int:
    """How many trials the connected cluster holds at once, or may come to hold; `tune.concurrent` at most.

    Args:
        settings: of the search.
        needs: of one trial, by Ray's name of the resource.
        pool: nodes that the trials' workers run on.

    Raises:
        InputError: it doesn't hold one.
    """
    there = pools.capacity(pool)
    wanted = {name: amount for name, amount in {**needs, "CPU": needs["CPU"] + _ACTOR_CPUS}.items() if amount}
    fits = {name: int(there.get(name, 0) / amount + 1e-9) for name, amount in wanted.items()}
    scarce = min(fits, key=lambda name: fits[name])
    if not fits[scarce]:
        raise InputError(
            f"a trial needs {wanted[scarce]:g} {scarce}, the cluster has {there.get(scarce, 0):g}: "
            "lower train.workers or what each reserves, or add nodes"
        )
    return min(fits[scarce], settings.concurrent or fits[scarce])


def search(
    settings: Tune,
    proposals: Callable[[int], Settings] | Sequence[Settings],
    work: Work,
    records: Records,
    observer: Observer,
    needs: dict[str, float],
    pool: str | None = None,
) -> None:
    """Run the trials that have not ended to their ends.

    Args:
        settings: of the search; with a sequence of proposals none is stopped early.
        proposals: settings of trial n, asked when it begins, or those of all.
        work: of a trial.
        records: what is known of the trials.
        observer: is told.
        needs: of one trial, by Ray's name of the resource.
        pool: nodes that the trials' workers run on.

    Raises:
        InputError: the cluster does not hold a trial.
    """
    total = settings.trials if callable(proposals) else len(proposals)
    method = settings.method if callable(proposals) else "random"
    propose = proposals if callable(proposals) else proposals.__getitem__
    ended = {trial.number for trial in records.all() if trial.status}
    replays = method == "asha"
    todo = [number for number in range(total) if replays or number not in ended]
    if set(todo) <= ended:
        return
    trainable = tune.with_parameters(_Trainable, work=work, records=records, replays=replays)
    population = [_given(number, propose, records) for number in todo] if method == "pbt" else []
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": _ACTOR_CPUS}),
        param_space={"trial": tune.grid_search(population)} if population else {},
        tune_config=tune.TuneConfig(
            metric=LOSS,
            mode="min",
            scheduler=_scheduler(settings, method),
            search_alg=None if population else _Proposals(todo, propose, records),
            num_samples=1 if population else len(todo),
            max_concurrent_trials=concurrency(settings, needs, pool),
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=f"{records.folder}/ray",
            failure_config=tune.FailureConfig(max_failures=settings.retries),
            callbacks=[_Witness(records, observer, ended)],
            verbose=0,
        ),
    )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _quiet():
        tuner.fit()


class _Trainable(tune.Trainable):
    """A trial as Tune sees it: each step waits for the next measurement, while the work goes on in a thread."""

    def setup(self, config: dict[str, Any], work: Work, records: Records, replays: bool) -> None:  # type: ignore[override]
        given = config.get("trial", config)
        self._number = int(self.trial_name)
        self._settings: Settings = given["settings"]
        self._work, self._records, self._replays = work, records, replays
        self._source: tuple[int, int, int] | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._rows: queue.Queue[dict[str, Any] | BaseException] = queue.Queue()
        self._last: Measured = {LOSS: math.inf, "step": 0, "samples": 0}

    def step(self) -> dict[str, Any]:
        if self._thread is None:
            self._begin()
        row = self._rows.get()
        if isinstance(row, BaseException):
            raise row
        self._last = {**self._last, **row}
        return {**self._last, "settings": self._branch.settings, _NEW: row.get(_NEW, False)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        place = [self._number, self._branch.generation, self._last["step"]]
        Path(checkpoint_dir, "place.json").write_text(json.dumps(place))

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        number, generation, step = json.loads(Path(checkpoint_dir, "place.json").read_text())
        self._source = (number, generation, step)

    def cleanup(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _begin(self) -> None:
        branch = self._records.branch(self._number) or Branch(0, self._settings)
        if self._source and self._source[0] != self._number:
            branch = Branch(branch.generation + 1, self._settings, self._source)
            self._records.begin_branch(self._number, branch)
        self._branch = branch
        if self._source:
            told = [point for point in self._records.points(self._number) if point["step"] <= self._source[2]]
            self._last |= told[-1] if told else {}
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            points = self._records.points(self._number)
            for point in self._unheard(points):
                self._rows.put(point)
            trial = self._records.read(self._number)
            if trial is None or trial.status is None:
                self._work(Start(self._number, self._branch, points.copy()), self._report(points), self._stop)
            self._rows.put({tune.result.DONE: True, _ENDED: "finished"})
        except InputError as error:
            self._rows.put({tune.result.DONE: True, _ENDED: "failed", _REASON: str(error)})
        except BaseException as error:  # raised where Tune sees it
            self._rows.put(error)

    def _unheard(self, points: list[Measured]) -> list[Measured]:
        """What Tune has not been told: all, where a scheduler learns from it, or what came after a pause began."""
        if self._replays:
            return points
        return [point for point in points if self._source and point["step"] > self._source[2]]

    def _report(self, points: list[Measured]) -> Report:
        def report(point: Measured) -> None:
            points.append({key: value for key, value in point.items() if key != "rows"})
            self._records.add(self._number, points)
            self._rows.put({**point, _NEW: True})

        return report


class _Proposals(Searcher):
    """The trials in their order; settings are asked for when a trial begins."""

    def __init__(self, todo: Sequence[int], propose: Callable[[int], Settings], records: Records) -> None:
        super().__init__(metric=LOSS, mode="min")
        self._todo, self._propose, self._records = list(todo), propose, records

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        if not self._todo:
            return str(Searcher.FINISHED)
        number = self._todo.pop(0)
        return _given(number, self._propose, self._records)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: what is known of a trial is in the records."""


class _Witness(tune.Callback):
    """Passes on to the observer, and to the records how trials end."""

    def __init__(self, records: Records, observer: Observer, ended: set[int]) -> None:
        self._records, self._observer, self._ended = records, observer, ended

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        number = int(trial.custom_trial_name)
        if number not in self._ended:
            self._observer.began(number, _settings(trial.config))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
        if result.get(_NEW):
            self._observer.measured(int(trial.custom_trial_name), result["settings"], result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        result = trial.last_result
        self._end(trial, result.get(_ENDED, "stopped"), result.get(_REASON, ""))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        lines = Path(trial.error_file).read_text().strip().splitlines()  # get_error reads a copy that may come later
        self._end(trial, "failed", lines[-1])

    def _end(self, trial: Any, status: Status, reason: str) -> None:
        number = int(trial.custom_trial_name)
        if number in self._ended:
            return
        self._ended.add(number)
        self._observer.ended(number, status, reason)  # first: a trial whose end is recorded is never told of again
        self._records.end(number, status, reason)
        self._observer.recorded(number, status)


def _scheduler(settings: Tune, method: str) -> TrialScheduler:
    """Tune's scheduler; time is counted in evaluations."""
    match method:
        case "asha":
            return ASHAScheduler(
                time_attr="training_iteration", max_t=settings.evaluations + 1, reduction_factor=settings.reduction
            )
        case "pbt":
            return PopulationBasedTraining(
                time_attr="training_iteration",
                perturbation_interval=1,
                hyperparam_mutations={"trial": {"settings": _mutations(settings.space)}},
                custom_explore_fn=lambda config: _inside(config, settings.space),
            )
        case _:
            return FIFOScheduler()


def _mutations(space: spaces.Space) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, domain in space.items():
        if not isinstance(domain, Span):
            found[key] = list(domain)
        elif domain.log:
            found[key] = tune.loguniform(domain.low, domain.high)
        else:
            found[key] = tune.uniform(domain.low, domain.high)
    return found


def _inside(config: dict[str, Any], space: spaces.Space) -> dict[str, Any]:
    """Perturbed settings, back within their ranges."""
    settings = config["trial"]["settings"]
    for key, domain in space.items():
        if isinstance(domain, Span):
            value = min(max(settings[key], domain.low), domain.high)
            settings[key] = round(value) if domain.whole else value
    return config


def _given(number: int, propose: Callable[[int], Settings], records: Records) -> dict[str, Any]:
    """What Tune knows of a trial: its settings, of which it makes those of the trials that copy it."""
    settings = records.propose(number, lambda: propose(number))
    branch = records.branch(number)
    return {_NUMBER: number, "settings": branch.settings if branch else settings}


def _settings(config: dict[str, Any]) -> Settings:
    found: Settings = (config.get("trial", config))["settings"]
    return found


def _name(trial: Any) -> str:
    given = trial.config.get("trial", trial.config)
    return f"{given[_NUMBER]:03d}"


@contextlib.contextmanager
def _quiet() -> Any:
    """Tune tells of every trial in its own words; ours are the observer's."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
