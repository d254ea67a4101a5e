"""MLflow servers with users and passwords, and a PostgreSQL for them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import servers

ADMIN, PASSWORD = "admin", "correct-horse-battery"
_START_SECONDS = 180
_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@dataclass
class MlflowServer:
    """An MLflow server that can be stopped and started again at the same port.

    Args:
        folder: of its log, and of what it keeps unless told otherwise.
        database: URI, with %s for the name of one of two databases.
        artifacts: URI or folder.
        environment: more variables, of S3 say.
    """

    folder: Path
    database: str = ""
    artifacts: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    users: bool = True

    def __post_init__(self) -> None:
        self.port = servers.free_ports(1)[0]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = self.database or f"sqlite:///{self.folder}/%s.db"
        self.artifacts = self.artifacts or str(self.folder / "artifacts")

    def start(self, **environment: str) -> None:
        """Start it, with `environment` over its own, and wait until it answers."""
        (self.folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {self.database % 'mlflow_auth'}\n"
            f"admin_username = {ADMIN}\nadmin_password = {PASSWORD}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "auth_cache_ttl_seconds = 60\n"  # otherwise the password is hashed anew at each request, for a second or so
        )
        settings = {
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "for-tests",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", self.database % "mlflow", "--workers", "1"),
            *("--artifacts-destination", self.artifacts),
            *(("--app-name", "basic-auth") if self.users else ()),
        ]
        self.log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **settings, **self.environment, **environment},
            cwd=self.folder,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # a group of its own, so that its workers end with it
        )
        self._await()

    def stop(self) -> None:
        """Kill it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()

    def _await(self) -> None:
        import requests

        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"mlflow server did not start: {log[-2000:]}")
            time.sleep(0.2)


def lacks_postgres() -> str:
    """Why there can be no PostgreSQL here; nothing where there can."""
    if not _POSTGRES:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.geteuid() == 0 and not _is_user("postgres"):
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


@contextmanager
def postgres(names: tuple[str, ...]) -> Iterator[str]:
    """A PostgreSQL on the loopback with databases of these names; gives their URI, with %s for the name."""
    programs, [port] = str(_POSTGRES[-1].parent), servers.free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders are closed to other users
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres", "postgres")
    with (folder / "password").open("w") as file:
        file.write(PASSWORD)
    (folder / "password").chmod(0o644)
    make = ["-U", "mlflow", "--auth=scram-sha-256", f"--pwfile={folder}/password", "-E", "UTF8", "--no-sync"]
    subprocess.run([f"{programs}/initdb", "-D", f"{folder}/data", *make], check=True, capture_output=True, **as_user)
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen(
        [f"{programs}/postgres", "-D", f"{folder}/data", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **as_user,
    )
    uri = f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{port}/%s"
    try:
        ready = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready).returncode:
            assert server.poll() is None, "PostgreSQL did not start"
            time.sleep(0.1)
        access = {**os.environ, "PGPASSWORD": PASSWORD}
        for name in names:
            made = [f"{programs}/createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", name]
            subprocess.run(made, check=True, env=access)
        yield uri
    finally:
        server.send_signal(signal.SIGINT)  # its fast shutdown
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
