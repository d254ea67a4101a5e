"""A Ray cluster for tests: a head with token authentication, as a team would have it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import servers


@dataclass(frozen=True)
class Head:
    """A running head node."""

    address: str  # of the cluster
    dashboard: str  # where jobs are submitted
    environment: dict[str, str]  # that leads to it, token included


@contextmanager
def start(folder: Path) -> Iterator[Head]:
    """A head node on free ports of the loopback, ended with the block."""
    token = folder / "token"
    token.write_text("a-token-of-the-tests-that-is-long-enough")
    gcs, dashboard, client, agent, grpc = servers.free_ports(5)
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # `python` in a job is this one
    }
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": grpc,
        "dashboard-host": "127.0.0.1",
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "object-store-memory": 300 * 2**20,
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "log").open("w") as log:
        node = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT)
        try:
            head = Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", environment)
            _wait(head, node, folder / "log")
            yield head
        finally:
            node.terminate()
            node.wait(60)


def _wait(head: Head, node: subprocess.Popen[bytes], log: Path) -> None:
    """Until the head takes jobs."""
    command = [str(Path(sys.executable).with_name("ray")), "job", "list", "--address", head.dashboard]
    for _ in range(30):
        assert node.poll() is None, log.read_text()
        answer = subprocess.run(command, env={**os.environ, **head.environment}, capture_output=True, text=True)
        if answer.returncode == 0:
            return
    raise AssertionError(f"the head takes no jobs: {answer.stderr}\n{log.read_text()}")
