"""Where MLflow keeps things: an MLflow server (`https://...`), or an SQLite file beside the runs.

Where `registry.uri` is not set, MLflow's own variable `MLFLOW_TRACKING_URI` names it. A server's credentials come from
`MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`, or `~/.mlflow/credentials`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cliploom import storage
from cliploom.config import Config
from cliploom.errors import InputError, StorageError
from cliploom.redacting import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_VARIABLE = "MLFLOW_TRACKING_URI"  # of MLflow's own; clusters set it for their jobs
_CHECK_SECONDS = 10  # of one request; tried twice, so that `check` answers within 30 s
_REFUSALS = {  # by HTTP status; the ends of sentences that begin with the server's URI
    401: "refuses the credentials: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    403: "gives this user no permission to do that",
}
# MLflow advertises, reports usage and draws progress bars unless told otherwise; what the user has set wins.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class StoreError(StorageError):
    """MLflow can't be reached, or fails; the same command again goes on from there."""


def store_uri(config: Config) -> str:
    """The URI of the store that `config` means; an SQLite path in it is absolute, so that every process means the same.

    Raises:
        InputError: the URI is of a kind that is not known, or there is none and `run.storage` is not local.
    """
    uri = config.registry.uri or os.environ.get(_VARIABLE)
    key = "registry.uri" if config.registry.uri else _VARIABLE
    if not uri:
        if storage.is_s3(config.run.storage):
            raise InputError(
                f"registry.uri is not set, nor {_VARIABLE}, and SQLite can't live in run.storage={config.run.storage}: "
                "name an MLflow server or sqlite:///FILE"
            )
        return f"{_SQLITE}{storage.absolute(config.run.storage)}/mlflow.db"
    if is_sqlite(uri):
        path = uri.removeprefix(_SQLITE)
        if not path or not uri.startswith(_SQLITE):
            raise InputError(f"{key}: {uri} names no file: write sqlite:///FILE")
        return _SQLITE + storage.absolute(path)
    if urlsplit(uri).scheme not in ("http", "https") or not urlsplit(uri).hostname:
        raise InputError(f"{key}: {redact(uri)} is neither http(s)://HOST nor sqlite:///FILE")
    return uri.rstrip("/")


def artifact_root(config: Config) -> str | None:
    """URI of the folder for artifacts where there is no server that decides; None where there is one."""
    return storage.join(storage.absolute(config.run.storage), "mlartifacts") if is_sqlite(store_uri(config)) else None


def is_sqlite(uri: str) -> bool:
    """Whether the store is an SQLite file."""
    return uri.startswith("sqlite:")


def redact(uri: str) -> str:
    """`uri` without user name and password."""
    return uri if is_sqlite(uri) else redacted(uri)


def one_line(error: Exception) -> str:
    """What `error` says, in one line of at most 300 characters, without the passwords of URIs in it."""
    return redacted(" ".join(str(error).split()))[:300]


def client(uri: str) -> MlflowClient:
    """MLflow's client for the store at `uri`. Making one for an SQLite file that is not there creates it."""
    _quieten()
    from mlflow import MlflowClient

    return MlflowClient(uri, uri)


def check(uri: str) -> None:
    """Find out, within 30 s, that the store at `uri` (from `store_uri`) is there and lets us in.

    Raises:
        InputError: it is not, or doesn't; says why.
    """
    if is_sqlite(uri):
        _check_sqlite(uri)
    else:
        _check_server(uri)


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """MLflow's requests fail within seconds; by default they are retried for minutes."""
    names = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(_CHECK_SECONDS), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _quieten() -> None:
    """Keep MLflow from the terminal; to be called before it is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Where something else imported MLflow first, the level comes too late that way.
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())


@contextlib.contextmanager
def permitted(uri: str) -> Iterator[None]:
    """Turn a server's refusal of what is done inside into an InputError, and its absence or failure into a StoreError.

    Other errors stay what they are.
    """
    _quieten()
    from mlflow.exceptions import MlflowException
    from requests import HTTPError  # which MLflow raises where it is about files

    try:
        yield
    except (MlflowException, HTTPError) as error:
        status = _status(error)
        if status in _REFUSALS:
            raise InputError(f"registry.uri: {redact(uri)} {_reason(error)}") from None
        if status >= 500 and not is_sqlite(uri):
            raise StoreError(f"MLflow at {redact(uri)} {_reason(error, 'does not do that')}") from None
        raise


def _check_server(uri: str) -> None:
    _quieten()
    from mlflow.exceptions import MlflowException

    try:
        with impatient():
            client(uri).search_experiments(max_results=1)
    except MlflowException as error:
        raise InputError(f"registry.uri: {redact(uri)} {_reason(error)}") from None


def _reason(error: Exception, otherwise: str = "does not answer as an MLflow server") -> str:
    """Why a server's answer was none, as the end of a sentence that begins with its URI."""
    from requests.exceptions import ConnectionError, SSLError, Timeout
    from urllib3.exceptions import MaxRetryError, NewConnectionError, ReadTimeoutError

    # MLflow wraps what requests raised, without always naming it as the cause; requests wraps urllib3's.
    cause = error.__cause__ or error.__context__
    inner = cause.args[0] if cause and cause.args else None
    late = isinstance(inner, MaxRetryError) and isinstance(inner.reason, ReadTimeoutError)
    status = _status(error)
    if isinstance(cause, SSLError):
        return "has a TLS certificate that is not trusted: set MLFLOW_TRACKING_SERVER_CERT_PATH"
    if isinstance(cause, Timeout) or late:
        return f"does not answer within {_CHECK_SECONDS} s"
    if isinstance(cause, ConnectionError):
        refused = isinstance(inner, MaxRetryError) and isinstance(inner.reason, NewConnectionError)
        return "can't be reached: nothing answers there" if refused else "breaks off the connection"
    if status in _REFUSALS:
        return _REFUSALS[status]
    return f"{otherwise}: {one_line(error)}"


def _status(error: Exception) -> int:
    """The HTTP status of a server's answer; 500 where there was none."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, HTTPError):
        return 500 if error.response is None else int(error.response.status_code)
    return int(error.get_http_status_code()) if isinstance(error, MlflowException) else 500


def _check_sqlite(uri: str) -> None:
    from contextlib import closing

    path = Path(uri.removeprefix(_SQLITE))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # MLflow would retry a file that is no database for an hour.
        with closing(sqlite3.connect(path, timeout=_CHECK_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # a write lock: refused where the file is read-only
            connection.execute("SELECT name FROM sqlite_master").fetchall()
            connection.rollback()
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"registry.uri: {path} can't be used as an SQLite database: {error}") from None
    _quieten()
    from mlflow.exceptions import MlflowException

    try:
        client(uri).search_experiments(max_results=1)
    except MlflowException as error:
        raise InputError(f"registry.uri: {path}: {one_line(error)}") from None
