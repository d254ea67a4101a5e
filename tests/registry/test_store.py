"""The store's URI, and what `check` says of a store that is not there."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests

from cliploom import config as configs
from cliploom import registry
from cliploom.errors import InputError
from cliploom.registry import store


def settings(**values: str) -> configs.Config:
    return configs.load(None, [f"{key.replace('__', '.')}={value}" for key, value in values.items()])


def test_default_store_is_sqlite_beside_the_runs(tmp_path: Path) -> None:
    config = settings(run__storage=str(tmp_path))
    assert registry.store_uri(config) == f"sqlite:///{tmp_path}/mlflow.db"
    assert registry.artifact_root(config) == f"{tmp_path}/mlartifacts"


def test_relative_sqlite_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert registry.store_uri(settings(registry__uri="sqlite:///here.db")) == f"sqlite:///{tmp_path}/here.db"


def test_mlflows_own_variable_names_the_store_where_no_setting_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert registry.store_uri(settings(run__storage="s3://bucket/runs")) == "https://mlflow.example.org"
    assert registry.store_uri(settings(registry__uri="https://other.example.org")) == "https://other.example.org"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI: databricks is neither"):
        registry.store_uri(settings())


def test_a_server_decides_where_artifacts_go() -> None:
    config = settings(registry__uri="https://mlflow.example.org/", run__storage="s3://bucket/runs")
    assert registry.store_uri(config) == "https://mlflow.example.org"
    assert registry.artifact_root(config) is None


@pytest.mark.parametrize("uri", ["databricks", "file:///tmp/mlruns", "./mlruns", "sqlite:///", "sqlite://", "http://"])
def test_other_kinds_of_store_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match=r"registry\.uri"):
        registry.store_uri(settings(registry__uri=uri))


def test_s3_storage_needs_a_server() -> None:
    with pytest.raises(InputError, match=r"registry\.uri is not set"):
        registry.store_uri(settings(run__storage="s3://bucket/runs"))


def test_check_makes_a_store_that_is_not_there_and_says_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/deep/er/mlflow.db"
    code = f"from cliploom import registry; registry.check({uri!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert store.client(uri).search_experiments()


def test_importing_the_registry_does_not_import_mlflow() -> None:
    code = "import sys; import cliploom.registry, cliploom.registry.review, cliploom.registry.tables; "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('mlflow' in sys.modules, 'torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database " * 100)
    with pytest.raises(InputError, match="file is not a database"):
        registry.check(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{tmp_path}/file/mlflow.db can't be used"):
        registry.check(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_store_of_another_mlflow(uri: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(InputError, match="mlflow db upgrade") as raised:
        registry.check(uri)
    assert "\n" not in str(raised.value)


def test_nothing_at_the_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nothing answers, and no one else takes it
        with pytest.raises(InputError, match="can't be reached") as raised:
            registry.check(f"http://someone:secret@127.0.0.1:{taken.getsockname()[1]}")
    assert "secret" not in str(raised.value)


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_CHECK_SECONDS", 1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(InputError, match="does not answer within 1 s"),
    ):
        registry.check(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.fixture
def answering() -> Iterator[HTTPServer]:
    """A web server that answers everything with `server.status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.end_headers()
            self.wfile.write(b"<html>Hello</html>")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "said"),
    [(200, "not answer as an MLflow"), (404, "not answer as an MLflow"), (401, "credentials"), (403, "no permission")],
)
def test_a_server_that_refuses_or_is_another(answering: HTTPServer, status: int, said: str) -> None:
    answering.status = status  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=said) as raised:
        registry.check(f"http://127.0.0.1:{answering.server_port}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (500, store.StoreError, "does not do that: 500"),
        (403, InputError, "no permission"),
        (401, InputError, "refuses"),
    ],
)
def test_refused_files_are_told_in_a_line_without_a_password(
    answering: HTTPServer, status: int, kind: type[Exception], said: str
) -> None:
    answering.status = status  # type: ignore[attr-defined]
    uri = f"http://ada:secret@127.0.0.1:{answering.server_port}"
    with pytest.raises(kind, match=said) as raised, store.permitted(uri):
        requests.get(f"{uri}/file", timeout=10).raise_for_status()
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_line_about_an_error_has_no_password() -> None:
    error = OSError("API request to https://ada:secret@mlflow.team/api failed:\n  no route")
    assert store.one_line(error) == "API request to https://mlflow.team/api failed: no route"


def test_impatience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with store.impatient():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
