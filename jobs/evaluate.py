"""Measure models on a suite of data sets."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cliploom import job
from cliploom.config import Config, require
from cliploom.errors import InputError, StorageError

if TYPE_CHECKING:
    from cliploom.evaluation.datasets import Dataset
    from cliploom.evaluation.run import Outcome
    from cliploom.evaluation.suite import Suite
    from cliploom.registry import Version
    from cliploom.registry.claims import Claim


class Subject(NamedTuple):
    """What is evaluated: a registered version, or the weights at a path; and where its results go."""

    name: str
    version: Version | None
    weights: str | None  # URI
    registry: str  # URI
    folder: str  # URI


OPTIONS = {"--pending": "evaluate.pending", "--watch": "evaluate.watch"}


def main(config: Config, _: list[str]) -> None:
    """Measure evaluate.model, or every candidate of registry.model_name not evaluated yet, on evaluate.suite.

    A registered version gets results, report and the outcome of the gates in its MLflow run. An evaluation that was
    stopped goes on from the features that it had computed. --pending takes the candidates that no other evaluator is at
    work on, one after the other; --watch does so as they come, until it is stopped.
    """
    require(config, "evaluate.suite")
    from cliploom import registry, storage
    from cliploom.evaluation import gates, run
    from cliploom.evaluation import suite as suites
    from cliploom.registry import claims

    suite = suites.load(str(config.evaluate.suite))
    gates.check(config.evaluate, suite)
    storage.check(config.run.storage, "run.storage")
    opened = run.open_suite(suite, config.evaluate.root)  # what it lacks is said before anything is awaited
    if config.evaluate.model and not (config.evaluate.pending or config.evaluate.watch):
        _evaluate(config, suite, opened, _named(config, suite))
        return
    require(config, "registry.model_name")
    uri, name = registry.store_uri(config), str(config.registry.model_name)
    registry.check(uri)
    if config.evaluate.watch:
        _watch(config, suite, uri, name)
    elif not _pending(config, suite, uri, name):
        print(
            "nothing to do: each version is evaluated, somebody else's, or given up after "
            f"{claims.ATTEMPTS} evaluations that failed; evaluate.model names one to do again"
        )


def _named(config: Config, suite: Suite) -> Subject:
    """The version or the weights that evaluate.model names."""
    from cliploom import registry

    model = str(config.evaluate.model)
    if not model.startswith("models:/"):
        return _subject(config, suite, _title(model), None, _weights(model), "")
    uri = registry.store_uri(config)
    registry.check(uri)
    return _registered(config, suite, registry.resolve(uri, model), uri)


def _registered(config: Config, suite: Suite, version: Version, uri: str) -> Subject:
    return _subject(config, suite, f"{version.name}-{version.version}", version, None, uri)


def _subject(
    config: Config, suite: Suite, title: str, version: Version | None, weights: str | None, uri: str
) -> Subject:
    from cliploom import storage

    name = config.run.name or f"{title}-{suite.name}"
    folder = storage.join(storage.absolute(config.run.storage), name, "evaluation")
    return Subject(name, version, weights, uri, folder)


def _pending(config: Config, suite: Suite, uri: str, name: str) -> int:
    """Evaluate what is not evaluated; returns how many versions that were."""
    from cliploom import registry
    from cliploom.evaluation import run
    from cliploom.registry import claims

    waiting = registry.candidates(uri, name)
    if len(waiting) > 1 and config.run.name:
        raise InputError(f"run.name: {len(waiting)} candidates can't share one: leave it out")
    done = 0
    for claim in claims.pending(uri, name, config.evaluate.lease_seconds):
        with claim:
            opened = run.open_suite(suite, config.evaluate.root)  # shards may have been replaced meanwhile
            _evaluate(config, suite, opened, _registered(config, suite, claim.version, uri), claim)
        done += 1
    return done


def _watch(config: Config, suite: Suite, uri: str, name: str) -> None:
    """Evaluate candidates as they come, until SIGTERM or SIGINT."""
    from cliploom import registry
    from cliploom.registry import webhook

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with webhook.receiver(config.evaluate.webhook) as came:
        print(f"watching {name} in {registry.redact(uri)}", flush=True)
        while True:
            came.clear()
            try:
                registry.check(uri)
                _pending(config, suite, uri, name)
            except (InputError, StorageError) as error:  # of one version, or of a server that may come back
                print("error:", *str(error).split(), file=sys.stderr, flush=True)
            came.wait(config.evaluate.poll_seconds)


def _evaluate(
    config: Config, suite: Suite, opened: list[Dataset], subject: Subject, claim: Claim | None = None
) -> None:
    """Measure one model, and keep what was found; unless somebody else has taken that over meanwhile."""
    from cliploom import registry
    from cliploom.cluster import connect

    version = subject.version
    tracking = registry.Tracker.attach(subject.registry, version.run_id).url if version else "none, it is a file"
    job.header(subject.name, subject.folder, tracking)
    with connect(config.ray):
        outcome = _measure(config, suite, opened, subject)
    if claim and not claim.holds():
        print("left     another evaluator has taken this version over, since the claim on it was not renewed in time")
        return
    _finish(config, subject, outcome)


def _weights(given: str) -> str:
    """Where the weights are that evaluate.model names: the URI itself, or what a training run there has exported."""
    from cliploom import storage
    from cliploom.models.weights import WEIGHTS

    uri = storage.absolute(given)
    export = storage.join(uri, "export")
    if storage.exists(storage.join(export, WEIGHTS)):
        return export
    if storage.files(storage.join(uri, "checkpoints")):
        raise InputError(f"evaluate.model: the run {given} has not exported its weights yet: let it train to its end")
    if not storage.exists(uri) and not storage.files(uri):
        advice = "write models:/NAME@ALIAS, a file or folder of weights, or the folder of a training run"
        raise InputError(f"evaluate.model: there is no {given}: {advice}")
    return uri


def _title(given: str) -> str:
    """What a model that is not registered is called: its file, or its folder where the file has a name that many have.

    What a training run has exported is called as the run.
    """
    from cliploom import storage
    from cliploom.models.weights import KNOWN_FILES

    *folders, name = [part for part in storage.absolute(given).split("/") if part]
    if name in KNOWN_FILES and folders:
        name = folders.pop()
    if name == "export" and folders:
        name = folders.pop()
    return name.removesuffix(".safetensors").removesuffix(".pt")


def _measure(config: Config, suite: Suite, opened: list[Dataset], subject: Subject) -> Outcome:
    from cliploom import registry, storage
    from cliploom.evaluation import contamination, model, run
    from cliploom.loading import local_weights
    from cliploom.progress import Progress

    version, place = subject.version, storage.join(subject.folder, "model")
    if version:
        with tempfile.TemporaryDirectory() as temporary:
            weights = registry.download(subject.registry, version, Path(temporary))
            tested = model.publish(weights, place, version.name, version.version)
    else:
        with local_weights(str(subject.weights)) as weights:
            tested = model.publish(weights, place, _title(str(config.evaluate.model)))
    training = contamination.training(config.evaluate.overlap)
    with Progress("shards and classes", len(run.sources(suite.entries, opened, training))) as progress:
        return run.evaluate(
            suite,
            opened,
            tested,
            training,
            storage.join(storage.absolute(config.run.storage), "features"),
            config.evaluate,
            config.data.max_bad_fraction,
            lambda done: progress.update(done.sources, f"{done.images:,} images, {done.texts:,} texts"),
        )


def _finish(config: Config, subject: Subject, outcome: Outcome) -> None:
    """Judge the outcome, keep it, and show it."""
    from rich.console import Console

    from cliploom import registry, storage
    from cliploom.evaluation import gates, output, summary
    from cliploom.evaluation.report import Champion

    uri, version, champion = subject.registry, subject.version, None
    if version and (best := registry.champion(uri, version.name)) and best.version != version.version:
        champion = Champion(f"{best.name} version {best.version}", registry.results(uri, best))
    verdict = gates.judge(
        outcome.rows,
        config.evaluate.gates,
        champion.rows if champion else (),
        outcome.shifts,
        [one.overlap for one in outcome.overlaps],
    )
    with tempfile.TemporaryDirectory() as temporary:
        output.write(outcome, verdict, champion, Path(temporary))
        output.publish(Path(temporary), subject.folder)
        if version:
            registry.record_evaluation(uri, version, outcome.rows, Path(temporary), verdict.passed, verdict.reasons)
    Console().print(summary.table(outcome, champion))
    for finding in outcome.findings:
        for warning in finding.warnings:
            print(f"warning  {warning}")
    broken = sum(len(finding.broken) for finding in outcome.findings)
    print(
        f"broken   {broken} samples" + (f", listed in {storage.join(subject.folder, output.BROKEN)}" if broken else "")
    )
    print(f"gates    {'passed' if verdict.passed else 'failed'}: {'; '.join(verdict.reasons)}")
    print(f"report   {storage.join(subject.folder, output.REPORT)}")


if __name__ == "__main__":
    sys.exit(job.run(main, options=OPTIONS))
