"""Tracking of one run: parameters, metrics and files in MLflow, without making training wait for a server."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cliploom import storage
from cliploom.errors import InputError, StorageError
from cliploom.registry import store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

RUN_TAG = "cliploom.run"
_BATCH = 1000  # metrics a request; MLflow's limit
_ENTRIES = 100  # parameters or tags a request; MLflow's limit
_WINDOW_SECONDS = 2.0  # metrics are gathered this long before they are sent
_RETRY_SECONDS = 2.0  # between attempts while the server is gone
_PATIENCE_SECONDS = 60.0  # that `flush` waits for a server that is gone
_CAPACITY = 100_000  # metrics kept while the server is gone; some 20 MB
_log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]


class TrackingError(StorageError):
    """Metrics could not be delivered to MLflow."""


class Tracker:
    """A run in MLflow. Made by `start` (makes the run or goes on with it) or `attach` (by run id, in any process).

    `log` puts metrics into a bounded buffer and returns at once; a thread sends them in batches, and goes on trying
    while the server is gone (MLflow stores a metric that is sent twice once). `flush` and `finish` wait for delivery.
    Everything else talks to MLflow directly and raises its exceptions.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._client = store.client(uri)
        self._buffer = _Buffer()
        self._thread: threading.Thread | None = None

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        run_name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        artifact_root: str | None = None,
    ) -> Tracker:
        """The run called `run_name` in `experiment`: the one that is there goes on, else it is made.

        A parameter keeps the value it was first given, as MLflow demands; where the run goes on with another value,
        that one is kept as the tag `changed/KEY`.

        Args:
            uri: of the store, from `store_uri`.
            experiment: made where there is none.
            run_name: identifies the run within the experiment.
            params: what the run was told, as strings.
            tags: what else is to be known about it.
            artifact_root: URI of the folder for a new experiment's artifacts; by default the server decides.

        Raises:
            InputError: the experiment was deleted, or the server gives no permission.
        """
        client = store.client(uri)
        with store.permitted(uri):
            experiment_id = _experiment(client, experiment, artifact_root)
            run = _find_run(client, experiment_id, run_name)
            if run is None:
                run = _make_run(client, experiment_id, run_name)
            else:
                client.update_run(run.info.run_id, status="RUNNING")
            known = run.data.params
            changed = {f"changed/{key}": value for key, value in params.items() if known.get(key, value) != value}
            new = {key: value for key, value in params.items() if key not in known}
            _describe(client, run.info.run_id, new, {**tags, **changed})
        return cls(uri, run.info.run_id)

    @classmethod
    def attach(cls, uri: str, run_id: str) -> Tracker:
        """The run `run_id` of the store `uri`, from another process."""
        return cls(uri, run_id)

    @property
    def url(self) -> str:
        """Where a person finds the run: its page on the server, or the SQLite store and the run's id."""
        if store.is_sqlite(self.uri):
            return f"{self.uri} (run {self.run_id})"
        with store.permitted(self.uri):
            experiment_id = self._client.get_run(self.run_id).info.experiment_id
        return f"{store.redact(self.uri)}/#/experiments/{experiment_id}/runs/{self.run_id}"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record `metrics` at `step`; never waits. What the buffer can't hold is lost, and `finish` says so."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="mlflow-metrics", daemon=True)
            self._thread.start()
        self._buffer.put([Metric(metric_name(name), float(value), now, step) for name, value in metrics.items()])

    def steps(self, name: str) -> set[int]:
        """The steps of which the run has the metric `name`, those still in the buffer apart."""
        history = self._client.get_metric_history(self.run_id, metric_name(name))
        return {metric.step for metric in history}

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep the file `path`, or all files in it, with the run, below `folder`."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def keep(self, uri: str, folder: str) -> None:
        """Keep a copy of a file that stands on any storage with the run, below `folder`.

        Raises:
            StorageError: the file, or the server, can't be reached.
        """
        with tempfile.TemporaryDirectory() as place, store.permitted(self.uri):
            file = Path(place, storage.name(uri))
            storage.download(uri, file)
            self.artifact(file, folder)

    def flush(self, patience: float = _PATIENCE_SECONDS) -> None:
        """Wait until all metrics are delivered.

        Raises:
            TrackingError: some are not after `patience` seconds, or were lost before.
        """
        self._buffer.wait_empty(patience)
        if undelivered := self._buffer.undelivered():
            raise TrackingError(f"{undelivered} for the MLflow run {self.run_id}")

    def finish(self, status: Status = "FINISHED", patience: float = _PATIENCE_SECONDS) -> None:
        """Deliver what is left, and end the run with `status`.

        Raises:
            TrackingError: metrics could not be delivered; the run is ended all the same where the server is there.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.flush(patience)
        except TrackingError:
            try:
                with store.impatient():
                    self._client.set_terminated(self.run_id, status)
            except MlflowException as error:
                _log.warning("the MLflow run %s stays open: %s", self.run_id, store.one_line(error))
            raise
        finally:
            self._buffer.close()
        with store.permitted(self.uri):
            self._client.set_terminated(self.run_id, status)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the run with the block: finished, killed by Ctrl-C, or failed.

        Where the block has failed, that is what is raised, whatever the server does then.

        Raises:
            TrackingError: as `finish`.
        """
        try:
            yield
        except BaseException as error:
            try:
                self.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            except (InputError, StorageError) as fault:
                _log.warning("%s", fault)
            raise
        self.finish()

    def _send_all(self) -> None:
        """The thread: batch after batch until the buffer is closed."""
        from mlflow.exceptions import MlflowException

        while batch := self._buffer.batch():
            try:
                self._client.log_batch(self.run_id, metrics=batch)
            except MlflowException as error:
                reason = store.one_line(error)
                if _is_refusal(error):
                    _log.warning("MLflow refuses %d metrics of run %s: %s", len(batch), self.run_id, reason)
                    self._buffer.drop(len(batch), reason)
                else:
                    self._buffer.retry_later(reason)
            else:
                self._buffer.delivered(len(batch))


class _Buffer:
    """The metrics on their way, shared by the threads that log and the one that sends."""

    def __init__(self) -> None:
        self._metrics: deque[Metric] = deque()
        self._lost = 0
        self._reason = ""
        self._closed = False
        self._hurry = False
        self._changed = threading.Condition()

    def put(self, metrics: list[Metric]) -> None:
        with self._changed:
            room = max(0, _CAPACITY - len(self._metrics))
            self._metrics.extend(metrics[:room])
            self._lost += len(metrics[room:])
            self._changed.notify_all()

    def batch(self) -> list[Metric]:
        """The next metrics to send, which stay in the buffer until they are delivered; none once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._metrics or self._closed)
            self._changed.wait_for(lambda: len(self._metrics) >= _BATCH or self._hurry or self._closed, _WINDOW_SECONDS)
            return [] if self._closed else [self._metrics[i] for i in range(min(_BATCH, len(self._metrics)))]

    def delivered(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._metrics.popleft()
            self._changed.notify_all()

    def drop(self, count: int, reason: str) -> None:
        with self._changed:
            self._lost += count
            self._reason = reason
        self.delivered(count)

    def retry_later(self, reason: str) -> None:
        with self._changed:
            self._reason = reason
            self._changed.wait_for(lambda: self._closed, _RETRY_SECONDS)

    def wait_empty(self, patience: float) -> None:
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._metrics, patience)
            self._hurry = False

    def undelivered(self) -> str:
        """What is not delivered, as the beginning of a sentence; nothing where all is."""
        with self._changed:
            missing = len(self._metrics) + self._lost
            return (
                f"{missing} metrics could not be delivered ({self._reason or 'the buffer was full'})" if missing else ""
            )

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def metric_name(name: str) -> str:
    """`name` as MLflow allows it: `recall@5` is `recall_at_5` there."""
    return name.replace("@", "_at_")


def _is_refusal(error: Exception) -> bool:
    """Whether sending the same again can't help: the server's answer blames the request (HTTP 4xx)."""
    from mlflow.exceptions import MlflowException

    status = error.get_http_status_code() if isinstance(error, MlflowException) else 500
    return 400 <= status < 500 and status not in (408, 429)


def _experiment(client: MlflowClient, name: str, artifact_root: str | None) -> str:
    """The id of the experiment `name`, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_root)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was quicker
            assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        raise InputError(f"registry.experiment: {name} was deleted in MLflow: restore it there, or name another")
    return str(experiment.experiment_id)


def _find_run(client: MlflowClient, experiment_id: str, run_name: str) -> Run | None:
    """The newest run of this name."""
    wanted = f"tags.`{RUN_TAG}` = '{run_name}'"
    found = client.search_runs([experiment_id], wanted, order_by=["attributes.start_time DESC"], max_results=1)
    return found[0] if found else None


def _make_run(client: MlflowClient, experiment_id: str, run_name: str) -> Run:
    """A new run, with MLflow's usual tags: who started it, from which script."""
    from mlflow.tracking.context.registry import resolve_tags

    return client.create_run(experiment_id, tags={**resolve_tags(), RUN_TAG: run_name}, run_name=run_name)


def _describe(client: MlflowClient, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    for start in range(0, max(len(params), len(tags)), _ENTRIES):
        part = slice(start, start + _ENTRIES)
        client.log_batch(
            run_id,
            params=[Param(key, value) for key, value in list(params.items())[part]],
            tags=[RunTag(key, value) for key, value in list(tags.items())[part]],
        )
