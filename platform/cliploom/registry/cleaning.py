"""What runs have left behind that nothing refers to any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cliploom import storage
from cliploom.registry import history, store
from cliploom.registry.tracking import RUN_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DAY = 24 * 3600 * 1000  # ms
_PAGE = 200
_PARENT = "mlflow.parentRunId"  # tag of a trial's run: the search's run


@dataclass(frozen=True)
class Leftover:
    """A run that came to nothing, or the checkpoints of one that came to its end."""

    run: str  # its name
    run_id: str
    uri: str  # folder that goes
    bytes: int
    why: str
    whole: bool  # the run goes as well, not its checkpoints alone


def find(uri: str, experiment: str, folder: str, days: float) -> list[Leftover]:
    """What may go of the runs of an experiment.

    Args:
        uri: of the store.
        experiment: its name.
        folder: URI that holds the runs' folders.
        days: since the end of a run that are waited.

    Returns:
        Runs that failed or were killed and that no model version comes from; and the checkpoints of those that finished
        and have their weights exported. A run that goes on, or that keeps a model's history, is never among them; nor
        is a trial's, whose files are its search's.
    """
    client = store.client(uri)
    with store.permitted(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return []
        kept = _referred(client)
        runs = list(_ended(client, found.experiment_id, days))
    leftovers = []
    for run in runs:
        name = run.data.tags[RUN_TAG]
        place = storage.join(folder, name)
        if run.info.status != "FINISHED" and run.info.run_id not in kept:
            why = f"{run.info.status.lower()}, and no version comes from it"
            leftovers.append(Leftover(name, run.info.run_id, place, _size(place), why, True))
        elif run.info.status == "FINISHED" and storage.exists(storage.join(place, "export", "weights.safetensors")):
            checkpoints = storage.join(place, "checkpoints")
            if size := _size(checkpoints):
                why = "finished, and its weights are exported"
                leftovers.append(Leftover(name, run.info.run_id, checkpoints, size, why, False))
    return leftovers


def remove(uri: str, leftover: Leftover) -> None:
    """Delete files and, of a whole run, MLflow's run too; that can be restored there until `mlflow gc`.

    The run goes last: while it is there, what an interruption has left is listed again.

    Raises:
        InputError: the server gives no permission; then the files are still there.
    """
    client = store.client(uri)
    if leftover.whole:
        with store.permitted(uri):
            client.restore_run(leftover.run_id)  # takes the permission to delete it, and changes no run that is there
    storage.delete(leftover.uri)
    if leftover.whole:
        with store.permitted(uri):
            client.delete_run(leftover.run_id)


def _ended(client: MlflowClient, experiment_id: str, days: float) -> Iterator[Any]:
    """The newest run of each name, where it has ended long enough ago."""
    latest = time.time() * 1000 - days * _DAY
    seen = set[str]()
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], max_results=_PAGE, page_token=token, order_by=["attributes.start_time DESC"]
        )
        for run in page:
            name = run.data.tags.get(RUN_TAG)
            if name is None or name in seen or _PARENT in run.data.tags:
                continue
            seen.add(name)
            if run.info.status in ("FINISHED", "FAILED", "KILLED") and (run.info.end_time or latest) < latest:
                yield run
        token = page.token
        if not token:
            return


def _referred(client: MlflowClient) -> set[str]:
    """The runs that a model version comes from, or that keep a model's history."""
    found = set[str]()
    token = None
    while True:
        page = client.search_model_versions(max_results=_PAGE, page_token=token)
        found |= {version.run_id for version in page if version.run_id}
        token = page.token
        if not token:
            break
    while True:
        models = client.search_registered_models(max_results=_PAGE, page_token=token)
        found |= {model.tags[history.JOURNAL] for model in models if history.JOURNAL in model.tags}
        token = models.token
        if not token:
            return found


def _size(uri: str) -> int:
    return sum(file.size for file in storage.files(uri))
