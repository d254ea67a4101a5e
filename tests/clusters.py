"""Ray clusters for tests: a head with token authentication, as a team would have it, and one that grows on demand."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray._private.services import get_node_ip_address

import servers
from cliploom import cluster

RAY = str(Path(sys.executable).with_name("ray"))
HEAD_NODE = "f" * 51 + "00000"  # the id by which Ray's provider of pretended machines knows the head
_HEAD_TYPE = "ray.head.default"  # as the provider names it


@dataclass(frozen=True)
class Head:
    """A running head node."""

    address: str  # of the cluster
    dashboard: str  # where jobs are submitted
    environment: dict[str, str]  # that leads to it, token included
    pid: int
    metrics: str  # where Prometheus reads


@contextmanager
def start(folder: Path, store: int = 300 << 20) -> Iterator[Head]:
    """A head node with two CPUs and `store` bytes for objects, on free ports of the loopback, ended with the block."""
    with _start(folder, servers.free_ports(6), {"num-cpus": 2, "object-store-memory": store}, {}) as head:
        yield head


@contextmanager
def start_growing(
    folder: Path, pools: Mapping[str, Mapping[str, float]], most: int, idle_seconds: float
) -> Iterator[Head]:
    """A head without work slots, and pretended machines on this one that come on demand and go when idle.

    Args:
        folder: for its files.
        pools: resources of a node, by pool.
        most: nodes of a pool.
        idle_seconds: a node goes after so long without work.
    """
    ports = servers.free_ports(6)
    lists = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands")
    nodes = {
        pool: {"resources": resources, "labels": {"pool": pool}, "node_config": {}, "max_workers": most}
        for pool, resources in pools.items()
    }
    tree: dict[str, Any] = {
        "cluster_name": "pretended",
        "max_workers": most * len(pools),
        "idle_timeout_minutes": idle_seconds / 60,
        "provider": {
            "type": "external",
            "module": "fakenodes.Provider",
            "gcs_address": f"{get_node_ip_address()}:{ports[0]}",
            "head_node_id": HEAD_NODE,
            "disable_node_updaters": True,
        },
        "head_node_type": _HEAD_TYPE,
        "available_node_types": {_HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}, **nodes},
        **{
            name: []
            for name in (*lists, "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
        },
        "file_mounts": {},
        "auth": {},
    }
    config = folder / "cluster.yaml"
    config.write_text(yaml.safe_dump(tree))
    environment = {
        "RAY_enable_autoscaler_v2": "1",  # the first version knows no labels
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE,
        "RAY_CLOUD_INSTANCE_ID": HEAD_NODE,
        "RAY_NODE_TYPE_NAME": _HEAD_TYPE,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "CLIPLOOM_NODE_TYPES": str(config),
        "PYTHONPATH": str(Path(__file__).parent),  # where the provider is
    }
    with _start(folder, ports, {"num-cpus": 0, "autoscaling-config": config}, environment) as head:
        yield head


@contextmanager
def _start(
    folder: Path, ports: list[int], own: Mapping[str, object], own_environment: Mapping[str, str]
) -> Iterator[Head]:
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, client, agent, grpc, metrics = ports
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        **{f"RAY_{name}": str(value) for name, value in cluster.SYSTEM.items()},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # `python` in a job is this one
    }
    options = {
        "port": gcs,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": grpc,
        "metrics-export-port": metrics,
        "dashboard-host": "127.0.0.1",
        "node-ip-address": "127.0.0.1",
        "object-store-memory": 300 * 2**20,
        **own,
    }
    command = [RAY, "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    # A job finds its cluster by a file there, which would be that of the last head that was started on this machine.
    with (
        (folder / "log").open("w") as log,
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as own_place,
    ):
        started = {**os.environ, **environment, **own_environment, "RAY_TMPDIR": own_place}
        node = subprocess.Popen(command, env=started, stdout=log, stderr=subprocess.STDOUT)
        here = "127.0.0.1"
        scraped = f"http://{here}:{metrics}/metrics"
        head = Head(f"{here}:{gcs}", f"http://{here}:{dashboard}", environment, node.pid, scraped)
        try:
            _wait(head, node, folder / "log")
            yield head
        finally:
            family = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
            node.terminate()
            node.wait(60)
            for process in family:  # pretended machines outlive their head, as real ones do
                if process.is_running():
                    process.kill()


@dataclass(frozen=True)
class Node:
    """A worker node of a cluster."""

    process: subprocess.Popen[bytes]
    id: str

    def kill(self) -> None:
        """Have it gone from one moment to the next, with all that runs on it."""
        for process in [*self._running(), self.process]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def pids(self) -> set[int]:
        """Of all processes that run on it."""
        return {process.pid for process in self._running()}

    def _running(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def drain(self, head: Head, seconds: int) -> None:
        """Give notice that it will be taken away, as a cloud does of a spot node."""
        words = [f"--address={head.address}", f"--node-id={self.id}", "--reason=DRAIN_NODE_REASON_PREEMPTION"]
        words += ["--reason-message=spot", f"--deadline-remaining-seconds={seconds}"]
        ray = str(Path(sys.executable).with_name("ray"))
        subprocess.run([ray, "drain-node", *words], env={**os.environ, **head.environment}, check=True)


@contextmanager
def join(head: Head, folder: Path, cpus: int = 2) -> Iterator[Node]:
    """A node of the cluster besides its head, on the same machine, ended with the block."""
    known = {node["NodeID"] for node in nodes(head)}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    command += [f"--address={head.address}", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}"]
    command += [f"--object-store-memory={200 * 2**20}"]
    with (folder / "node.log").open("a") as log:
        process = subprocess.Popen(command, env={**os.environ, **head.environment}, stdout=log, stderr=log)
    try:
        new: list[str] = []
        while not new:
            assert process.poll() is None, (folder / "node.log").read_text()
            new = [node["NodeID"] for node in nodes(head) if node["Alive"] and node["NodeID"] not in known]
        yield Node(process, new[0])
    finally:
        if process.poll() is None:
            Node(process, "").kill()


def nodes(head: Head) -> list[dict[str, Any]]:
    """What the cluster says of its nodes."""
    script = (
        f"import json, ray; ray.init({head.address!r}, log_to_driver=False, logging_level='ERROR'); "
        "print(json.dumps(ray.nodes()))"
    )
    env = {**os.environ, **head.environment}
    answer = subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True)
    found: list[dict[str, Any]] = json.loads(answer.stdout.splitlines()[-1])
    return found


def _wait(head: Head, node: subprocess.Popen[bytes], log: Path) -> None:
    """Until the head takes jobs."""
    command = [RAY, "job", "list", "--address", head.dashboard]
    for _ in range(30):
        assert node.poll() is None, log.read_text()
        answer = subprocess.run(command, env={**os.environ, **head.environment}, capture_output=True, text=True)
        if answer.returncode == 0:
            return
    raise AssertionError(f"the head takes no jobs: {answer.stderr}\n{log.read_text()}")
