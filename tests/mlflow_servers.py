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
from pathlib import Path
from typing import Any

import servers

ADMIN, PASSWORD = "admin", "correct-horse-battery"
_START_SECONDS = 180
_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


class MlflowServer:
    """An MLflow server on sqlite that can be stopped and started again at its port; all it keeps is in `folder`."""

    def __init__(self, folder: Path, users: bool = True) -> None:
        self.folder, self.users = folder, users
        self.port = servers.free_ports(1)[0]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{self.folder}/auth.db\n"
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
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
            *(("--app-name", "basic-auth") if self.users else ()),
        ]
        self._run(command, settings)

    def _run(self, command: list[str], settings: Mapping[str, str]) -> None:
        self.log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **settings},
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


class TeamServer(MlflowServer):
    """As a team has it: started by cluster/mlflow/start.sh, on PostgreSQL and S3.

    Args:
        folder: of its log and secrets.
        database_port: of a PostgreSQL on the loopback.
        artifacts: URI.
    """

    def __init__(self, folder: Path, database_port: int, artifacts: str) -> None:
        super().__init__(folder)
        self.settings = {
            "SECRETS": str(folder / "secrets"),
            "TMPDIR": str(folder),
            "DATABASE_HOST": "127.0.0.1",
            "DATABASE_PORT": str(database_port),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "WORKERS": "1",
            "ALLOWED_HOSTS": f"127.0.0.1:{self.port}",
            "ARTIFACTS": artifacts,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, s3_key: str = servers.ACCESS_KEY) -> None:
        """Start it with this access key for S3."""
        secrets = {
            "database-password": PASSWORD,
            "admin-password": PASSWORD,
            "session-key": "for-tests",
            "s3-access-key": s3_key,
            "s3-secret-key": servers.SECRET_KEY,
        }
        (self.folder / "secrets").mkdir(exist_ok=True)
        for name, value in secrets.items():
            (self.folder / "secrets" / name).write_text(value)
        self._run([str(servers.ROOT / "cluster/mlflow/start.sh")], self.settings)


def lacks_postgres() -> str:
    """Why there can be no PostgreSQL here; nothing where there can."""
    if not _POSTGRES:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.geteuid() == 0 and not _is_user("postgres"):
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


@contextmanager
def postgres(names: tuple[str, ...]) -> Iterator[int]:
    """A PostgreSQL on the loopback with databases of these names; gives its port. The user mlflow has PASSWORD."""
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
    try:
        ready = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready).returncode:
            assert server.poll() is None, "PostgreSQL did not start"
            time.sleep(0.1)
        access = {**os.environ, "PGPASSWORD": PASSWORD}
        for name in names:
            made = [f"{programs}/createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", name]
            subprocess.run(made, check=True, env=access)
        yield port
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
