"""What is said where S3 refuses, is not there, or breaks off."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import servers
from cliploom import storage
from cliploom.errors import InputError, StorageError, TransportError
from cliploom.s3 import client, delete

on_s3 = pytest.mark.integration


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Sets variables for S3, and forgets clients that were made under others."""

    def enter(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        client.cache_clear()

    yield enter
    monkeypatch.undo()
    client.cache_clear()


@on_s3
def test_a_refused_secret_is_said(s3: Callable[[], str], environment: Callable[[dict[str, str]], None]) -> None:
    bucket = s3()
    environment({"AWS_SECRET_ACCESS_KEY": "wrong"})
    with pytest.raises(StorageError, match=r"^[^\n]*the secret key is refused$"):
        storage.read(bucket + "/x")
    with pytest.raises(StorageError):
        storage.exists(bucket + "/x")
    with pytest.raises(InputError, match=r"^run\.storage: [^\n]*the secret key is refused$"):
        storage.check(bucket + "/runs", "run.storage")


@on_s3
def test_an_unknown_access_key_is_said(s3: Callable[[], str], environment: Callable[[dict[str, str]], None]) -> None:
    bucket = s3()
    environment({"AWS_ACCESS_KEY_ID": "nobody"})
    with pytest.raises(InputError, match=r"^run\.storage: [^\n]*the access key is unknown there$"):
        storage.check(bucket + "/runs", "run.storage")


@on_s3
def test_missing_rights_are_said(s3: Callable[[], str], environment: Callable[[dict[str, str]], None]) -> None:
    bucket = s3()
    storage.write(bucket + "/file", b"x")
    environment({"AWS_ACCESS_KEY_ID": servers.READER_KEY})
    assert storage.read(bucket + "/file") == b"x"
    with pytest.raises(InputError, match=r"^run\.storage: [^\n]*the credentials have no right to it$"):
        storage.check(bucket + "/runs", "run.storage")
    with pytest.raises(StorageError, match="file can't be deleted"):
        storage.delete(bucket + "/file")


@on_s3
def test_a_bucket_that_is_not_there_is_said(s3: Callable[[], str]) -> None:
    uri = s3().replace("test-", "gone-") + "/runs"
    with pytest.raises(StorageError, match="no such bucket"):
        storage.read(uri + "/file")
    with pytest.raises(StorageError, match="no such bucket"):
        storage.files(uri)


def test_an_s3_that_is_not_there_is_said_within_30_seconds(environment: Callable[[dict[str, str]], None]) -> None:
    [port] = servers.free_ports(1)
    environment(servers.s3_environment(f"http://127.0.0.1:{port}"))
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"^run\.storage: s3://bucket/runs [^\n]*127\.0\.0\.1:{port}[^\n]*$"):
        storage.check("s3://bucket/runs", "run.storage")
    assert time.monotonic() - start < 30  # what is promised to users


@pytest.mark.slow
def test_an_s3_that_never_answers_is_said_within_30_seconds(environment: Callable[[dict[str, str]], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment(servers.s3_environment(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        start = time.monotonic()
        with pytest.raises(InputError, match=r"^run\.storage: s3://bucket/runs [^\n]*$"):
            storage.check("s3://bucket/runs", "run.storage")
        assert time.monotonic() - start < 30


class Interrupting(BaseHTTPRequestHandler):
    """Serves ten bytes to any request, and loses the connection in their middle the first times."""

    lost = 6  # more than boto3 tries a download by itself

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"0123" if self.lost > 0 else b"0123456789")
        type(self).lost -= 1
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def downloaded(uri: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        storage.download(uri, Path(folder, "file"))
        return Path(folder, "file").read_bytes()


@pytest.mark.parametrize("read", [storage.read, downloaded])
@pytest.mark.parametrize("patience", ["60", "0"])
def test_a_connection_lost_in_the_middle(
    environment: Callable[[dict[str, str]], None], patience: str, read: Callable[[str], bytes]
) -> None:
    """It is tried again as long as `CLIPLOOM_RETRY_SECONDS` says."""
    Interrupting.lost = 6
    with HTTPServer(("127.0.0.1", 0), Interrupting) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever, 0.05)
        try:
            endpoint = f"http://127.0.0.1:{server.server_port}"
            environment(servers.s3_environment(endpoint) | {"CLIPLOOM_RETRY_SECONDS": patience})
            if patience == "60":
                assert read("s3://bucket/file") == b"0123456789"
            else:
                with pytest.raises(TransportError, match=r"^s3://bucket/file: [^\n]+$"):
                    read("s3://bucket/file")
        finally:
            server.shutdown()


class Deleting:
    """A client whose answers to a request to delete are given."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)

    def delete_objects(self, **_: object) -> dict[str, object]:
        code = self.answers.pop(0)
        return {"Errors": [{"Key": "a", "Code": code, "Message": "no"}]} if code else {}


def test_objects_that_are_not_deleted_at_once_are_deleted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 200 with a fault for each object, which no server at hand can be made to do."""
    deleting = Deleting("InternalError", "SlowDown", None, "AccessDenied")
    monkeypatch.setattr("cliploom.s3.client", lambda *_: deleting)
    delete(["s3://bucket/a"])
    assert deleting.answers == ["AccessDenied"]
    with pytest.raises(StorageError, match=r"s3://bucket/a can't be deleted: no"):
        delete(["s3://bucket/a"])


def test_missing_credentials_are_said(
    environment: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment({**servers.s3_environment("http://127.0.0.1:9"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"^run\.storage: s3://bucket/runs [^\n]*[Cc]redentials[^\n]*$"):
        storage.check("s3://bucket/runs", "run.storage")
