"""Real servers for tests: S3 by SeaweedFS, and jobs as the user starts them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
ACCESS_KEY, READER_KEY, SECRET_KEY = "test-key", "reader-key", "test-secret"
_START_SECONDS = 60


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens at, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def run_job(name: str, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `jobs/NAME.py` with these arguments to its end, with `env` added to the environment."""
    return subprocess.run(
        [sys.executable, f"jobs/{name}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
    )


def s3_environment(endpoint: str, secret: str = SECRET_KEY) -> dict[str, str]:
    """The variables that lead to an S3 server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def seaweedfs(folder: Path) -> Iterator[str]:
    """An S3 server that checks signatures, keeping its data in `folder`; gives its endpoint.

    Each bucket takes a volume, and there are as many volumes as the free disk has room for: hence they are small.
    """
    names = (
        "s3",
        "s3.port.grpc",
        "master",
        "master.port.grpc",
        "volume",
        "volume.port.grpc",
        "filer",
        "filer.port.grpc",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    rights = {
        ACCESS_KEY: ["Admin", "Read", "List", "Tagging", "Write"],
        READER_KEY: ["Read", "List"],
    }
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": SECRET_KEY}], "actions": actions}
        for key, actions in rights.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    options = [f"-{name}={port}" if "port" in name else f"-{name}.port={port}" for name, port in ports.items()]
    command = [
        str(Path(sys.executable).with_name("weed")),
        f"-logdir={folder}",
        *("server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-filer", "-s3"),
        *(f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0", *options),
        *("-volume.max=0", "-volume.preStopSeconds=0", "-master.volumeSizeLimitMB=128"),
        *("-master.electionTimeout=1s", "-master.telemetry=false", "-iam=false"),
    ]
    settings = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "GOMEMLIMIT": "384MiB"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    try:
        _await_s3(endpoint, server, folder / "log")
        yield endpoint
    finally:
        server.kill()  # it keeps nothing that a gentler end would save, and takes seconds over one
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await_s3(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return once a bucket can be made."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
    )
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="probe", Body=b"")
            return
        except (BotoCoreError, ClientError):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not start: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.1)
