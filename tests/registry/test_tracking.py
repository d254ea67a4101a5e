"""Tracking: runs that go on, metrics in batches, a server that is gone for a while."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from cliploom.errors import InputError
from cliploom.registry import store, tracking
from cliploom.registry.tracking import Tracker, TrackingError


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_RETRY_SECONDS", 0.01)


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in store.client(uri).get_metric_history(run_id, key)]


def fail(times: int, error: MlflowException, log_batch: Any) -> Any:
    """`log_batch` that raises `error` at the first calls."""
    left = iter(range(times))

    def failing(*args: Any, **kwargs: Any) -> None:
        if next(left, None) is not None:
            raise error
        log_batch(*args, **kwargs)

    return failing


def test_metrics_arrive_at_their_steps(uri: str, tracker: Tracker) -> None:
    for step in range(2500):  # more than two requests' worth
        tracker.log({"loss": 1 / (step + 1), "recall@5": step / 2500}, step)
    tracker.finish()
    assert tracker.steps("loss") == set(range(2500))
    assert tracker.steps("accuracy") == set()
    assert history(uri, tracker.run_id, "loss") == [(step, 1 / (step + 1)) for step in range(2500)]
    assert len(history(uri, tracker.run_id, "recall_at_5")) == 2500
    assert store.client(uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_metrics_are_sent_in_batches(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(tracker._client, "log_batch", lambda run_id, metrics: sizes.append(len(metrics)))
    monkeypatch.setattr(tracking, "_WINDOW_SECONDS", 1e6)
    for step in range(1500):
        tracker.log({"loss": 1.0}, step)
    tracker.flush()
    assert sum(sizes) == 1500
    assert max(sizes) == 1000
    assert len(sizes) <= 3


def test_values_that_are_not_finite_are_kept(uri: str, tracker: Tracker) -> None:
    tracker.log({"loss": math.nan, "norm": math.inf}, 1)
    tracker.flush()
    assert math.isnan(history(uri, tracker.run_id, "loss")[0][1])
    assert history(uri, tracker.run_id, "norm")[0][1] > 1e300


def test_a_run_of_the_same_name_goes_on(uri: str, tracker: Tracker) -> None:
    tracker.log({"loss": 2.0}, 1)
    tracker.finish("KILLED")
    again = Tracker.start(uri, "tests", "first", {"train.seed": "0", "train.workers": "2"}, {"git_commit": "abc"})
    assert again.run_id == tracker.run_id
    run = store.client(uri).get_run(again.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"train.seed": "0", "train.workers": "2"}
    assert run.data.tags["git_commit"] == "abc"
    again.log({"loss": 1.0}, 2)
    again.finish()
    assert history(uri, tracker.run_id, "loss") == [(1, 2.0), (2, 1.0)]


def test_a_changed_parameter_is_kept_as_a_tag(uri: str, tracker: Tracker) -> None:
    Tracker.start(uri, "tests", "first", {"train.seed": "1"}, {})
    run = store.client(uri).get_run(tracker.run_id)
    assert run.data.params["train.seed"] == "0"
    assert run.data.tags["changed/train.seed"] == "1"


def test_other_names_and_other_experiments_are_other_runs(uri: str, tracker: Tracker) -> None:
    ids = {Tracker.start(uri, experiment, name, {}, {}).run_id for experiment, name in [("tests", "b"), ("c", "first")]}
    assert len(ids | {tracker.run_id}) == 3


def test_many_parameters(uri: str) -> None:
    params = {f"section.key{i}": str(i) for i in range(250)}
    tracker = Tracker.start(uri, "tests", "many", params, {f"tag{i}": "x" for i in range(120)})
    data = store.client(uri).get_run(tracker.run_id).data
    assert data.params == params
    assert {f"tag{i}" for i in range(120)} <= set(data.tags)


def test_attached_from_elsewhere(uri: str, tracker: Tracker) -> None:
    worker = Tracker.attach(uri, tracker.run_id)
    worker.log({"loss": 3.0}, 7)
    worker.flush()
    assert history(uri, tracker.run_id, "loss") == [(7, 3.0)]
    assert store.client(uri).get_run(tracker.run_id).info.status == "RUNNING"


def test_files_are_kept_in_the_artifact_root(uri: str, tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.txt").write_text("a")
    tracker.artifact(tmp_path / "plots", "all")
    tracker.artifact(tmp_path / "plots" / "a.txt")
    assert len(list((tmp_path / "mlartifacts").rglob("a.txt"))) == 2


def test_a_deleted_experiment(uri: str, tracker: Tracker) -> None:
    client = store.client(uri)
    client.delete_experiment(client.get_run(tracker.run_id).info.experiment_id)
    with pytest.raises(InputError, match="tests was deleted"):
        Tracker.start(uri, "tests", "first", {}, {})


def test_a_server_that_is_gone_for_a_while(uri: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = fail(3, MlflowException("connection refused"), tracker._client.log_batch)
    monkeypatch.setattr(tracker._client, "log_batch", gone)
    for step in range(10):
        tracker.log({"loss": float(step)}, step)
    tracker.finish()
    assert history(uri, tracker.run_id, "loss") == [(step, float(step)) for step in range(10)]


def test_what_was_stored_before_the_answer_was_lost_is_stored_once(
    uri: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = tracker._client.log_batch
    answers = iter([MlflowException("connection reset")])

    def lose_first_answer(*args: Any, **kwargs: Any) -> None:
        send(*args, **kwargs)
        if error := next(answers, None):
            raise error

    monkeypatch.setattr(tracker._client, "log_batch", lose_first_answer)
    tracker.log({"loss": 1.0, "norm": math.nan}, 1)
    tracker.flush()
    assert history(uri, tracker.run_id, "loss") == [(1, 1.0)]
    assert len(history(uri, tracker.run_id, "norm")) == 1


def test_a_server_that_stays_away_is_reported_at_the_end(
    uri: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = fail(10**9, MlflowException("connection refused"), tracker._client.log_batch)
    monkeypatch.setattr(tracker._client, "log_batch", gone)
    tracker.log({"loss": 1.0, "norm": 2.0}, 1)
    with pytest.raises(TrackingError, match=r"2 metrics .* \(connection refused\)"):
        tracker.finish(patience=0.1)
    assert store.client(uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_refused_metrics_do_not_hold_up_the_others(
    uri: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.log({"what?": 1.0}, 1)  # a name that MLflow does not allow
    tracker._buffer.wait_empty(30)
    tracker.log({"loss": 1.0}, 2)
    with pytest.raises(TrackingError, match="1 metrics"):
        tracker.finish()
    assert history(uri, tracker.run_id, "loss") == [(2, 1.0)]
    assert "refuses 1 metrics" in caplog.text


def test_log_does_not_wait_and_the_buffer_is_bounded(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_CAPACITY", 50)
    answer = threading.Event()
    monkeypatch.setattr(tracker._client, "log_batch", lambda *_, **__: answer.wait(30))
    for step in range(60):  # returns although nothing is being delivered
        tracker.log({"loss": 1.0}, step)
    answer.set()
    with pytest.raises(TrackingError, match=r"10 metrics .* \(the buffer was full\)"):
        tracker.flush()


def test_urls(uri: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracker.url == f"{uri} (run {tracker.run_id})"
    experiment = store.client(uri).get_run(tracker.run_id).info.experiment_id
    monkeypatch.setattr(tracker, "uri", "https://someone:secret@mlflow.example.org")
    assert tracker.url == f"https://mlflow.example.org/#/experiments/{experiment}/runs/{tracker.run_id}"


@pytest.mark.parametrize(("fault", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_ends_as_its_block_does(
    fault: type[BaseException], status: str, uri: str, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(fault), tracker.ending():
        raise fault
    assert store.client(uri).get_run(tracker.run_id).info.status == status
    with tracker.ending():
        pass
    assert store.client(uri).get_run(tracker.run_id).info.status == "FINISHED"
    monkeypatch.setattr(tracker, "flush", missed)
    with pytest.raises(fault), tracker.ending():
        raise fault
    with pytest.raises(TrackingError), tracker.ending():
        pass


def missed(patience: float) -> None:
    raise TrackingError("3 metrics could not be delivered")
