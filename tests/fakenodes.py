"""Ray's provider of pretended machines, for autoscaling on one: nodes are processes on the loopback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ray._private import ray_constants
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)


class Provider(FakeMultiNodeProvider):
    """As Ray's, but it names nodes by its own `gcs_address`, and they listen at the loopback alone."""

    def _create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        rest = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU", "object_store_memory")}
        with self.lock:
            name, kind = self._next_hex_node_id(), tags[TAG_RAY_USER_NODE_TYPE]
            parameters = RayParams(
                # A disk of its own: a machine that goes away must not take along what the others have unpacked.
                temp_dir=str(Path(os.environ["RAY_TMPDIR"], name[-5:])),
                min_worker_port=0,
                max_worker_port=0,
                dashboard_agent_listen_port=0,
                num_cpus=resources.get("CPU", 0),
                num_gpus=resources.get("GPU", 0),
                object_store_memory=resources.get("object_store_memory"),
                resources=rest,
                labels=labels,
                redis_address=self._gcs_address,
                gcs_address=self._gcs_address,
                env_vars={
                    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": name,
                    "RAY_CLOUD_INSTANCE_ID": name,
                    "RAY_NODE_TYPE_NAME": kind,
                    ray_constants.RESOURCES_ENVIRONMENT_VARIABLE: json.dumps(rest),
                    ray_constants.LABELS_ENVIRONMENT_VARIABLE: json.dumps(labels),
                },
            )
            own = {
                TAG_RAY_NODE_KIND: NODE_KIND_WORKER,
                TAG_RAY_USER_NODE_TYPE: kind,
                TAG_RAY_NODE_NAME: name,
                TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
            }
            node = Node(parameters, head=False, shutdown_at_exit=False, spawn_reaper=False)
            self._nodes[name] = {"tags": {**own, **tags}, "node": node}  # type: ignore[dict-item]
