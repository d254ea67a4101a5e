"""What a running cluster says of its nodes, actors and tasks, by the dashboard's own interface."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from clusters import HEAD_NODE, Head

T = TypeVar("T")
_SECONDS = 240


def listed(head: Head, kind: str, **filters: str) -> list[dict[str, Any]]:
    """Rows of Ray's state: `nodes`, `actors` or `tasks`."""
    query = [("detail", "1"), ("limit", "1000")]
    for key, value in filters.items():
        query += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    url = f"{head.dashboard}/api/v0/{kind}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})) as answer:
        rows: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]["result"]
    return rows


def workers(head: Head, pool: str | None = None) -> dict[str, dict[str, Any]]:
    """Nodes that are there beside the head, by their ids; those of one pool."""
    return {
        node["node_id"]: node
        for node in listed(head, "nodes", state="ALIVE")
        if node["node_id"] != HEAD_NODE and pool in (None, node["labels"].get("pool"))
    }


def until(condition: Callable[[], T | None], what: str, job: subprocess.Popen[str] | None = None) -> T:
    """The first true answer of `condition`; what it looks at is in other processes, hence the polling.

    Raises:
        AssertionError: there is none within minutes, or `job` ends before.
    """
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        assert job is None or job.poll() is None, job.stdout and job.stdout.read()
        time.sleep(0.2)
    raise AssertionError(f"not within {_SECONDS} s: {what}")


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def take_away(head: Head, node: str) -> None:
    """Kill all processes of a pretended machine at once, as a cloud does with one it reclaims."""
    for process in family(head.pid):
        try:
            if process.environ().get("RAY_CLOUD_INSTANCE_ID") == node:
                process.kill()
        except psutil.NoSuchProcess:
            continue


def listening(head: Head) -> dict[int, tuple[str, str]]:
    """Of each TCP port that a cluster's processes listen at, what listens and at which address."""
    found: dict[int, tuple[str, str]] = {}
    for process in family(head.pid):
        try:
            what = " ".join(process.cmdline())
            ports = [c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        except psutil.NoSuchProcess:
            continue
        kind = next((name for name in _KINDS if name in what), what)
        found |= {address.port: (kind, address.ip) for address in ports}
    return found


# By which a process's command line tells what it is; the first that fits.
_KINDS = (
    *("ray_client_server", "util.client.server", "runtime_env/agent", "runtime_env_agent", "dashboard/agent.py"),
    *("gcs_server", "autoscaler/v2/monitor", "log_monitor", "dashboard/dashboard.py", "dashboard", "raylet/raylet"),
    *("ray::", "default_worker.py", "jobs/train.py"),
)


def starts_a_job(port: int, path: str) -> bool:
    """Whether someone without a token can start a job at a port of this machine."""
    body = json.dumps({"entrypoint": "true"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # refused, or another language than HTTP
        return False
