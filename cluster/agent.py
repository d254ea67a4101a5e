"""The node agent: turns a cloud's notice that this machine will be taken away into a drain of its Ray node.

Runs beside Ray on every spot node, and polls the metadata server: AWS's two-minute notice and its earlier rebalance
recommendation, GCP's preemption and maintenance notices. On a notice the node is drained: Ray places nothing new on it,
and training saves a checkpoint and goes on elsewhere before the deadline. Ends with 0 once the node is drained.

    python agent.py --cloud aws|gcp [--address HOST:PORT] [--metadata URL]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

METADATA = {"aws": "http://169.254.169.254", "gcp": "http://metadata.google.internal"}
POLL_SECONDS = 5.0  # as AWS advises
HTTP_SECONDS = 2.0
TOKEN_SECONDS = 6 * 3600
# GCP gives no time: 30 s from the notice to the power button, less what polling and shutting down take.
GCP_SECONDS = {"preempted": 25.0, "TERMINATE_ON_HOST_MAINTENANCE": 3600.0}


class Notice(NamedTuple):
    """That this machine goes away."""

    reason: str
    deadline: float  # seconds since the epoch


class Aws:
    """EC2's instance metadata service, version 2: each request carries a session token."""

    def __init__(self, metadata: str) -> None:
        self._metadata = metadata
        self._token: tuple[str, float] | None = None

    def notice(self) -> Notice | None:
        """The interruption that is announced, else the rebalance recommendation, else nothing."""
        if told := self._get("/latest/meta-data/spot/instance-action"):
            action = json.loads(told)
            return Notice(f"spot instance to {action['action']}", _epoch(action["time"]))
        if told := self._get("/latest/meta-data/events/recommendations/rebalance"):
            # Comes minutes before the notice, or without one after it: the machine has two minutes at least.
            return Notice("rebalance recommendation", _epoch(json.loads(told)["noticeTime"]) + 120)
        return None

    def _get(self, path: str) -> str | None:
        try:
            return _http(self._metadata + path, {"X-aws-ec2-metadata-token": self._session()})
        except urllib.error.HTTPError as error:
            if error.code == 401:  # the token has run out
                self._token = None
                return None
            raise

    def _session(self) -> str:
        if self._token is None or time.monotonic() > self._token[1]:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            token = _http(f"{self._metadata}/latest/api/token", headers, "PUT")
            if token is None:
                raise urllib.error.URLError("the metadata server gives no session token")
            self._token = token, time.monotonic() + TOKEN_SECONDS / 2
        return self._token[0]


class Gcp:
    """Compute Engine's metadata server."""

    def __init__(self, metadata: str) -> None:
        self._instance = f"{metadata}/computeMetadata/v1/instance"

    def notice(self) -> Notice | None:
        """The preemption or maintenance that is announced, else nothing."""
        if self._get("preempted") == "TRUE":
            return Notice("preempted", time.time() + GCP_SECONDS["preempted"])
        event = self._get("maintenance-event") or ""
        if event in GCP_SECONDS:
            return Notice(event, time.time() + GCP_SECONDS[event])
        return None

    def _get(self, name: str) -> str | None:
        told = _http(f"{self._instance}/{name}", {"Metadata-Flavor": "Google"})
        return told and told.strip()


CLOUDS: dict[str, Callable[[str], Aws | Gcp]] = {"aws": Aws, "gcp": Gcp}


def _http(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """The answer's text; None where there is nothing at `url`."""
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310  (an address of the operator's)
    try:
        with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as answer:  # noqa: S310
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def _epoch(time_utc: str) -> float:
    return datetime.strptime(time_utc, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def wait(cloud: Aws | Gcp, poll_seconds: float) -> Notice:
    """Poll until there is a notice; a metadata server that does not answer is asked again, and said so once."""
    silent = False
    while True:
        try:
            if notice := cloud.notice():
                return notice
            silent = False
        except (OSError, ValueError) as error:  # URLError is an OSError; ValueError: no JSON, no time
            if not silent:
                _say(f"no answer from the metadata server: {error}")
            silent = True
        time.sleep(poll_seconds)


def drain(address: str, node_id: str | None, notice: Notice) -> None:
    """Drain this machine's Ray node; another is drained where `node_id` names it.

    Raises:
        RuntimeError: Ray refused, or there is not exactly one node on this machine.
    """
    # Not by way of `ray.init`, which wants to share files with the node: on Kubernetes this is another container.
    from ray._private.services import get_node_ip_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

    gcs = GcsClient(address=address)
    if node_id is None:
        own = get_node_ip_address(address)
        nodes = gcs.get_all_node_info(timeout=HTTP_SECONDS * 5).items()
        found = [
            name.hex()
            for name, node in nodes
            if node.state == GcsNodeInfo.ALIVE and node.node_manager_address == own and not node.is_head_node
        ]
        if len(found) != 1:
            raise RuntimeError(f"{len(found)} Ray nodes have this machine's address {own}: give --node-id")
        node_id = found[0]
    accepted, why = gcs.drain_node(
        node_id,
        autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION,  # type: ignore[attr-defined]
        notice.reason,
        int(notice.deadline * 1000),
    )
    if not accepted:
        raise RuntimeError(f"Ray does not drain the node: {why}")


def main() -> int:
    """Wait for a notice, then drain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cloud", required=True, choices=sorted(CLOUDS))
    parser.add_argument(
        "--address", default=os.environ.get("RAY_ADDRESS"), help="of Ray's head; by default RAY_ADDRESS"
    )
    parser.add_argument("--metadata", help="URL of the metadata server; by default the cloud's own")
    parser.add_argument("--node-id", help="of the Ray node to drain; by default the one on this machine")
    parser.add_argument("--poll-seconds", type=float, default=POLL_SECONDS)
    options = parser.parse_args()
    if not options.address:
        parser.error("--address or RAY_ADDRESS must say where Ray's head is")
    _say(f"watching for notices of {options.cloud}")
    cloud = CLOUDS[options.cloud](options.metadata or METADATA[options.cloud])
    notice = wait(cloud, options.poll_seconds)
    _say(f"{notice.reason}, {notice.deadline - time.time():.0f} s left: draining")
    drain(options.address, options.node_id, notice)
    _say("drained")
    return 0


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
