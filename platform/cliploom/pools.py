"""Pools: which nodes do which work, and what a cluster that grows on demand may come to have.

A pool is the nodes that carry its name in the label `pool`. Where no node has it and none may come that has, work goes
to any node, so that the same settings serve one machine and a cluster of several pools.

A cluster that grows says what it may grow to in a file whose path its head has in `CLIPLOOM_NODE_TYPES`: the YAML of
`ray up`, of which `max_workers` and `available_node_types` are read. A job on the head tells it to the whole cluster.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cliploom.errors import InputError

LABEL = "pool"
NODE_TYPES = "CLIPLOOM_NODE_TYPES"
_KEY = b"cliploom_node_types"


class NodeType(NamedTuple):
    """Nodes that a cluster may start."""

    pool: str | None
    resources: dict[str, float]  # of one
    most: int


def publish() -> None:
    """Tell the connected cluster what it may grow to, where this process's environment says it.

    Raises:
        InputError: the file that the environment names can't be read.
    """
    from ray.experimental import internal_kv

    if path := os.environ.get(NODE_TYPES):
        internal_kv._internal_kv_put(_KEY, json.dumps(read(path)).encode(), overwrite=True)


def read(path: str) -> list[NodeType]:
    """The node types of a cluster's YAML, its head apart.

    Raises:
        InputError: it is none.
    """
    try:
        tree: dict[str, Any] = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
        most = int(tree["max_workers"])
        return [
            NodeType(kind.get("labels", {}).get(LABEL), kind["resources"], min(most, kind.get("max_workers", most)))
            for name, kind in tree["available_node_types"].items()
            if name != tree.get("head_node_type")
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{NODE_TYPES}: {path} is no cluster's YAML with its node types: {reason}") from None


def selector(pool: str | None) -> dict[str, str]:
    """Ray's label selector for a pool; empty, which is any node, where the connected cluster has no such pool."""
    there = {_pool(node) for node in _nodes()} | {kind.pool for kind in _growth()}
    return {LABEL: pool} if pool is not None and pool in there else {}


def capacity(pool: str | None) -> dict[str, float]:
    """Resources by name that work for a pool can have in all, on nodes that are there or that may come."""
    wanted = selector(pool).get(LABEL)
    there: Counter[str] = Counter()
    for node in _nodes():
        if wanted is None or _pool(node) == wanted:
            there.update(node["Resources"])
    limit: Counter[str] = Counter()
    for kind in _growth():
        if wanted is None or kind.pool == wanted:
            limit.update({name: amount * kind.most for name, amount in kind.resources.items()})
    return dict(there | limit)  # of each the greater: nodes that have come count among those that may


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _pool(node: dict[str, Any]) -> str | None:
    return node["Labels"].get(LABEL)


def _growth() -> list[NodeType]:
    from ray.experimental import internal_kv

    told = internal_kv._internal_kv_get(_KEY)
    return [NodeType(*row) for row in json.loads(told)] if told else []
