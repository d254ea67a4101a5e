"""Search for settings, fit scaling laws, or compare objectives, by many training runs."""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from cliploom import job
from cliploom.config import Config, require


def main(config: Config, _: list[str]) -> None:
    """Search by many trials, each a training run (see the keys tune.*), as many at once as the cluster holds.

    A search that was stopped goes on when it is started again with the same run.name: trials that have ended are not
    run again, the others go on from their checkpoints.
    """
    require(config, "run.name", "data.manifest")
    from cliploom import registry, storage
    from cliploom.cluster import connect
    from cliploom.search import run as searches
    from cliploom.search.tuner import search as tune
    from cliploom.training.trainer import needs

    storage.check(storage.absolute(config.run.storage), "run.storage")
    uri = registry.store_uri(config)
    registry.check(uri)
    planned = searches.plan(config)
    root = registry.artifact_root(config)
    parent = registry.Tracker.start(
        uri, config.registry.experiment, str(config.run.name), registry.params(planned.config), {}, root
    )
    job.header(config.run.name, planned.folder, parent.url)
    watch = _Watch(planned, uri, parent.run_id, root)
    with parent.ending(), closing(watch):
        with connect(config.ray, dashboard=True):
            tune(
                config.tune,
                planned.proposals,
                planned.training,
                planned.records,
                watch,
                needs(config),
                config.train.pool,
            )
        searches.tidy(planned)
        found = searches.summarize(planned)
        _publish(searches.write(planned, found), parent)
        _say(found)
        print(f"results  {storage.join(planned.folder, 'results.json')}")


def dry_run(config: Config) -> None:
    """Print what the search will cost."""
    from cliploom.search import run as searches
    from cliploom.training import cost

    planned = searches.plan(config)
    rows = [planned.proposals(n) for n in range(planned.total)] if callable(planned.proposals) else planned.proposals
    runs = [planned.training.run(number, settings) for number, settings in enumerate(rows)]
    costs = [cost.estimate(run) for run in runs]
    rate, source = cost.rate(config, runs[0])
    for run, one in zip(runs, costs, strict=True):
        print(f"{run.config.run.name}  {one.line(rate)}")
    total = sum(one.flops for one in costs)
    hours = sum(one.hours(rate) for one in costs)
    print(
        f"{len(rows)} trials: {total:.3g} FLOPs, {hours:.3g} hours of a trial's workers at {rate:.3g} FLOP/s ({source})"
    )


class _Watch:
    """Keeps an MLflow run for each trial below the search's, and says how trials fare; see `tuner.Observer`."""

    def __init__(self, search: Any, uri: str, parent: str, root: str | None) -> None:
        self._search, self._uri, self._parent, self._root = search, uri, parent, root
        self._open: dict[int, Any] = {}
        self._ended = sum(trial.status is not None for trial in search.records.all())

    def began(self, number: int, settings: Any) -> None:
        from cliploom import registry

        if number in self._open:
            return
        config = self._search.config
        tags = {"mlflow.parentRunId": self._parent}
        params = {key: str(value) for key, value in settings.items()}
        name = self._search.training.name(number)
        self._open[number] = registry.Tracker.start(
            self._uri, config.registry.experiment, name, params, tags, self._root
        )
        shown = ", ".join(f"{key.split('.')[-1]}={_short(value)}" for key, value in settings.items())
        print(f"{name}  begins  {shown}", flush=True)

    def measured(self, number: int, settings: Any, point: Any) -> None:
        tracker = self._open[number]
        for row in point.get("rows", ()):
            tracker.log({key: value for key, value in row.items() if key != "step"}, row["step"])
        names = [name for name in ("held_out_loss", "acc1") if name in point]
        drawn = {key: value for key, value in settings.items() if isinstance(value, float)}
        tracker.log({**{name: point[name] for name in names}, **drawn}, point["step"])
        said = "  ".join(f"{name} {point[name]:.4f}" for name in names)
        print(f"{self._search.training.name(number)}  {point['samples']} samples  {said}", flush=True)

    def ended(self, number: int, status: Any, reason: str) -> None:
        self._ended += 1
        if number in self._open:
            self._open.pop(number).finish({"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[status])
        why = f": {reason}" if reason else ""
        print(
            f"{self._search.training.name(number)}  {status}{why}  ({self._ended} of {self._search.total})", flush=True
        )

    def recorded(self, number: int, status: Any) -> None:
        if status == "finished" and self._search.config.tune.method != "pbt":  # there others may still copy it
            self._search.training.tidy(number)

    def close(self) -> None:
        """End the MLflow runs of trials that were cut short."""
        for tracker in self._open.values():
            tracker.finish("KILLED")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _publish(uris: list[str], parent: Any) -> None:
    from cliploom import storage

    with tempfile.TemporaryDirectory() as folder:
        for uri in uris:
            storage.download(uri, Path(folder, storage.name(uri)))
        parent.artifact(Path(folder), "search")


def _say(found: dict[str, Any]) -> None:
    """The findings in a few lines."""
    if best := found.get("best"):
        print(f"best     {best['name']}, held-out loss {best['held_out_loss']:.4f}: {best['settings']}")
    for row in found.get("carried", ()):
        print(f"carried  {row['key']}: {row['found']} -> {row['carried']}  ({row['rule']})")
    for name, law in found.get("laws", {}).items():
        print(f"law      {name}: {_law(law)}")
    for row in found.get("held_out", ()):
        for name, check in row.items():
            if isinstance(check, dict):
                p, verdict = check["predicted"], "inside" if check["inside"] else "outside"
                print(
                    f"check    {row['name']}, held out: measured {row['measured']:.4f}, by {name} {p['value']:.4f} "
                    f"({p['low']:.4f} - {p['high']:.4f}): {verdict}"
                )
    for row in found.get("seeds", ()):
        print(f"seeds    {', '.join(row['names'])}: log error spreads by {row['spread']:.4f}")
    if recommended := found.get("recommendation"):
        print(f"advice   {recommended if isinstance(recommended, str) else _advice(recommended)}")
    for row in found.get("ratios", ()):
        print(f"ratio    {row['fast']} over {row['slow']} at {row['accuracy']:.1%}: {row['ratio']}")


def _advice(row: dict[str, Any]) -> str:
    error = row["error"]
    return (
        f"for {row['flops']:.3g} FLOPs: factor {row['factor']:.3g} ({row['parameters']:.3g} parameters), "
        f"{row['samples']:.3g} samples in batches of {row['global_batch_size']} ({row['batch_rule']}), "
        f"learning rate {row['learning_rate']:.3g}; "
        f"expected {error['value']:.4f} ({error['low']:.4f} - {error['high']:.4f}); by {row['basis']}"
    )


def _law(law: Any) -> str:
    if isinstance(law, str):
        return law
    unclear = law["not_identifiable"]
    parts = []
    for name, p in law["parameters"].items():
        note = f" not identifiable ({unclear[name]})" if name in unclear else f" ({p['low']:.3g} - {p['high']:.3g})"
        parts.append(f"{name} {p['value']:.3g}{note}")
    return f"{law['form']}, {law['points']} points: {', '.join(parts)}"


if __name__ == "__main__":
    sys.exit(job.run(main, dry_run=dry_run))
