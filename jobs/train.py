"""Train CLIP on a manifest, and register what comes out."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from cliploom import job
from cliploom.config import Config, require


def main(config: Config, words: list[str]) -> None:
    """Train a CLIP model on image-text pairs, and register it as a candidate.

    What learns another objective than matching images with texts leaves its weights in the run's folder alone.

    A run that was stopped goes on from its last checkpoint when the job is started again with the same run.name.
    """
    require(config, "run.name", "data.manifest", "registry.model_name")
    from cliploom import registry, storage
    from cliploom.cluster import connect
    from cliploom.training.goodput import hours_left
    from cliploom.training.network import write_start
    from cliploom.training.run import check_goes_on, is_complete, plan_run
    from cliploom.training.stopping import stopping

    start = _start(config)
    run = plan_run(config, start.config if start else None)
    storage.check(run.folder, "run.storage")
    check_goes_on(run)
    if start:
        write_start(run.folder, start)
    uri = registry.store_uri(config)
    registry.check(uri)
    tracker = registry.Tracker.start(
        uri,
        config.registry.experiment,
        str(config.run.name),
        registry.params(config),
        {},
        registry.artifact_root(config),
    )
    job.header(config.run.name, run.folder, tracker.url)
    with tracker.ending():
        if not is_complete(run):
            hours = hours_left(run.folder, config.train.max_hours)
            with connect(config.ray), stopping(hours) as stop:
                done = _train(run, tracker, stop)
            if not done:
                sys.exit(
                    f"stopped by {stop.cause}: run {config.run.name} goes on from its checkpoint when started again"
                )
        if run.makes_clip:
            version = _register(run, uri, tracker.run_id)
            print(f"registered {version.name} version {version.version}, alias candidate")
        else:
            print(f"weights {run.export}: {config.objective.name} makes no CLIP, so no version is registered")


def dry_run(config: Config) -> None:
    """Print what the run will cost."""
    from cliploom.training import cost, peak
    from cliploom.training.run import plan_run

    start = _start(config)
    run = plan_run(config, start.config if start else None)
    print(cost.estimate(run).table(*cost.rate(config, run)))
    if slow := peak.warning(config.train):
        print(f"warning: {slow}")


def _start(config: Config) -> Any:
    """The weights to start from: the run's own copy, or those that model.weights names."""
    from cliploom import registry
    from cliploom.data import vocabulary
    from cliploom.errors import InputError
    from cliploom.loading import local_weights
    from cliploom.models import weights
    from cliploom.training.network import read_start
    from cliploom.training.run import model_config, run_folder

    if not config.model.weights:
        return None
    found = read_start(run_folder(config))
    if found:
        return found
    with local_weights(config.model.weights, registry.store_uri(config)) as path:
        if config.data.vocabulary is None and (path / vocabulary.NAME).is_file():
            raise InputError(
                f"model.weights={config.model.weights} has a vocabulary of its own: give the file as data.vocabulary"
            )
        return weights.load(path, model_config(config, None))


def _train(run: Any, tracker: Any, stop: Any) -> bool:
    """Whether the run came to its end."""
    from cliploom.evaluation.checks import checks_of
    from cliploom.progress import Progress
    from cliploom.training import peak
    from cliploom.training.board import GaveUpError
    from cliploom.training.trainer import fit
    from cliploom.training.watch import Watch

    with Progress("step", run.steps) as progress:
        checks = checks_of(run, tracker.log, progress.say)
        if slow := peak.warning(run.config.train):
            progress.say(f"warning: {slow}")
        watch = Watch(run, tracker, progress, checks or (lambda step: None))
        try:
            with watch:
                done = fit(run, watch, stop)
        except GaveUpError as error:
            sys.exit(f"error: {error} (run the same command again to go on)")
        if checks:
            checks.finish()
    if said := watch.summary():
        print(said)
    return done


def _register(run: Any, uri: str, run_id: str) -> Any:
    from cliploom import registry, storage

    source = run.stream.source
    tags = registry.version_tags(run.config, source.fingerprint, run.steps * run.stream.global_batch_size)
    with tempfile.TemporaryDirectory() as folder:
        for file in storage.files(run.export):
            storage.download(file.uri, Path(folder, storage.name(file.uri)))
        return registry.register(
            uri, run.config.registry.model_name, run_id, Path(folder), tags, registry.card(run.config, tags)
        )


if __name__ == "__main__":
    sys.exit(job.run(main, dry_run=dry_run))
