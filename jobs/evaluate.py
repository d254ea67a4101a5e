"""Measure models on a suite of data sets."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from cliploom import job
from cliploom.config import Config, require
from cliploom.errors import InputError


def main(config: Config, _: list[str]) -> None:
    """Measure evaluate.model, or every candidate of registry.model_name not evaluated yet, on evaluate.suite.

    A registered version gets results, report and the outcome of the gates in its MLflow run. An evaluation that was
    stopped goes on from the features that it had computed, whatever the run is called.
    """
    require(config, "evaluate.suite")
    from cliploom import registry, storage
    from cliploom.cluster import connect
    from cliploom.evaluation import gates, run, suite

    storage.check(config.run.storage, "run.storage")
    measured = suite.load(str(config.evaluate.suite))
    gates.check(config.evaluate.gates, measured)
    opened = run.open_suite(measured, config.evaluate.root)
    model = config.evaluate.model
    if model is not None and not model.startswith("models:/"):
        subjects: list[Any] = [Path(model)]
        if not subjects[0].exists():
            raise InputError(f"evaluate.model: there is no {model}; write models:/NAME@ALIAS, or a file or folder of weights")
    else:
        if model is None:
            require(config, "registry.model_name")
        uri = registry.store_uri(config)
        registry.check(uri)
        name = str(config.registry.model_name)
        subjects = [registry.resolve(uri, model)] if model else registry.candidates(uri, name)
        if not subjects:
            print(f"every version of {name} is evaluated: name one as evaluate.model to evaluate it again")
    for subject in subjects:
        with connect(config.ray):
            _evaluate(config, measured, opened, subject)


def _evaluate(config: Config, suite: Any, opened: Any, subject: Any) -> None:
    """Evaluate `subject`, a registered version or the path of weights."""
    from rich.console import Console

    from cliploom import registry, storage
    from cliploom.evaluation import gates, model, output, run, summary
    from cliploom.evaluation.report import Champion
    from cliploom.progress import Progress

    version = subject if isinstance(subject, registry.Version) else None
    uri = registry.store_uri(config) if version else ""
    name = f"{version.name}-{version.version}" if version else subject.stem
    run_name = config.run.name or f"{name}-{suite.name}"
    folder = storage.join(storage.absolute(config.run.storage), run_name, "evaluation")
    tracking = registry.Tracker.attach(uri, version.run_id).url if version else "none: the model is not in the registry"
    job.header(run_name, folder, tracking)

    with tempfile.TemporaryDirectory() as temporary:
        weights = registry.download(uri, version, Path(temporary)) if version else subject
        tested = model.publish(
            weights, storage.join(folder, "model"), version.name if version else name, version.version if version else None
        )
    with Progress("shards and classes", len(run.sources(opened))) as progress:
        outcome = run.evaluate(
            suite,
            opened,
            tested,
            storage.join(storage.absolute(config.run.storage), "features"),
            config.evaluate,
            config.data.max_bad_fraction,
            lambda done: progress.update(done.sources, f"{done.images:,} images, {done.texts:,} texts"),
        )
    champion = None
    if version and (best := registry.champion(uri, version.name)) and best.version != version.version:
        champion = Champion(f"{best.name} version {best.version}", registry.results(uri, best))
    verdict = gates.judge(outcome.rows, config.evaluate.gates, champion.rows if champion else ())
    with tempfile.TemporaryDirectory() as temporary:
        output.write(outcome, verdict, champion, Path(temporary))
        output.publish(Path(temporary), folder)
        if version:
            registry.record_evaluation(uri, version, outcome.rows, Path(temporary), verdict.passed, verdict.reasons)
    Console().print(summary.table(outcome, champion))
    broken = sum(len(finding.broken) for finding in outcome.findings)
    print(f"broken   {broken} samples could not be measured" + (f", see {folder}/broken.jsonl" if broken else ""))
    print(f"gates    {'passed' if verdict.passed else 'failed'}: {'; '.join(verdict.reasons)}")
    print(f"report   {storage.join(folder, output.REPORT)}")


if __name__ == "__main__":
    sys.exit(job.run(main))
