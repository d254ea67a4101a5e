"""The Kubernetes manifests as kubectl's kustomize makes them, and the schemas that they must fit."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import servers

FOLDER = servers.ROOT / "cluster" / "kubernetes"
SIZES = ["1", "8", "64", "1024"]
JOBS = sorted(path.name for path in (FOLDER / "jobs").iterdir() if path.name != "base")


@functools.cache
def built(folder: str) -> tuple[dict[str, Any], ...]:
    """The documents that kustomize makes of a folder of cluster/kubernetes."""
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl, which builds the manifests (Debian: kubernetes-client)")
    command = ["kubectl", "kustomize", str(FOLDER / folder)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def one(folder: str, kind: str) -> dict[str, Any]:
    """The only document of a kind."""
    [found] = [document for document in built(folder) if document["kind"] == kind]
    return found


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """By the OpenAPI schema of KubeRay's v1 definition of `kind`, in which unknown keys are errors.

    kuberay/ has that of its ray-operator/config/crd/bases/ray.io_KINDs.yaml without the descriptions.
    """
    path = Path(__file__).parent / "kuberay" / f"{kind.lower()}s.json.gz"
    found: dict[str, Any] = _closed(json.loads(gzip.decompress(path.read_bytes())))
    found["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, of which the definition says nothing
    return jsonschema.Draft202012Validator(found)


def _closed(node: Any) -> Any:
    """A schema in which objects with named properties have no others, and integers-or-strings are either."""
    if isinstance(node, list):
        return [_closed(value) for value in node]
    if not isinstance(node, dict):
        return node
    made = {key: _closed(value) for key, value in node.items()}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made


def validate(document: dict[str, Any]) -> None:
    """Raises jsonschema's ValidationError where KubeRay's definition does not allow the document."""
    validator(document["kind"]).validate(document)
