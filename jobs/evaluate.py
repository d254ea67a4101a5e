"""Measure models on a suite of data sets."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cliploom import job
from cliploom.config import Config, require
from cliploom.errors import InputError

if TYPE_CHECKING:
    from cliploom.evaluation.datasets import Dataset
    from cliploom.evaluation.run import Outcome
    from cliploom.evaluation.suite import Suite
    from cliploom.registry import Version


class Subject(NamedTuple):
    """What is evaluated: a registered version, or the weights at a path; and where its results go."""

    name: str
    version: Version | None
    weights: str | None  # URI
    registry: str  # URI
    folder: str  # URI


def main(config: Config, _: list[str]) -> None:
    """Measure evaluate.model, or every candidate of registry.model_name not evaluated yet, on evaluate.suite.

    A registered version gets results, report and the outcome of the gates in its MLflow run. An evaluation that was
    stopped goes on from the features that it had computed.
    """
    require(config, "evaluate.suite")
    from cliploom import registry, storage
    from cliploom.cluster import connect
    from cliploom.evaluation import gates, run
    from cliploom.evaluation import suite as suites

    suite = suites.load(str(config.evaluate.suite))
    gates.check(config.evaluate.gates, suite)
    storage.check(config.run.storage, "run.storage")
    subjects = _subjects(config, suite)
    for subject in subjects:
        version = subject.version
        tracking = registry.Tracker.attach(subject.registry, version.run_id).url if version else "none, it is a file"
        job.header(subject.name, subject.folder, tracking)
    if not subjects:
        print("every version is evaluated: name one as evaluate.model to evaluate it again")
        return
    opened = run.open_suite(suite, config.evaluate.root)
    with connect(config.ray):
        for subject in subjects:
            _finish(config, subject, _measure(config, suite, opened, subject))


def _subjects(config: Config, suite: Suite) -> list[Subject]:
    """What the settings say is to be evaluated."""
    from cliploom import registry, storage

    def subject(title: str, version: Version | None, weights: str | None, uri: str) -> Subject:
        name = config.run.name or f"{title}-{suite.name}"
        return Subject(
            name, version, weights, uri, storage.join(storage.absolute(config.run.storage), name, "evaluation")
        )

    model = config.evaluate.model
    if model is not None and not model.startswith("models:/"):
        return [subject(_title(model), None, _weights(model), "")]
    uri = registry.store_uri(config)
    if model is not None:
        registry.check(uri)
        versions = [registry.resolve(uri, model)]
    else:
        require(config, "registry.model_name")
        registry.check(uri)
        versions = registry.candidates(uri, str(config.registry.model_name))
        if len(versions) > 1 and config.run.name:
            raise InputError(f"run.name: {len(versions)} candidates can't share one: leave it out")
    return [subject(f"{version.name}-{version.version}", version, None, uri) for version in versions]


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


def _title(uri: str) -> str:
    """What a model that is not registered is called: its file or folder; that of the run where this is its export."""
    parts = [part for part in uri.split("/") if part]
    name = parts[-2] if parts[-1] == "export" and len(parts) > 1 else parts[-1]
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
    verdict = gates.judge(outcome.rows, config.evaluate.gates, champion.rows if champion else ())
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
    sys.exit(job.run(main))
