"""Where a model comes from: settings, code and the versions of what it was made with, as strings for MLflow."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cliploom.config import Config
from cliploom.registry import store

STACK = ("torch", "deepspeed", "ray", "mlflow", "numpy", "pyarrow", "pillow", "tokenizers")


def params(config: Config) -> dict[str, str]:
    """Every setting that has a value, as dotted key and text; without credentials in the registry's URI."""
    flat = dict(_flatten(config.model_dump(mode="json", exclude_none=True)))
    if "registry.uri" in flat:
        flat["registry.uri"] = store.redact(flat["registry.uri"])
    return flat


def version_tags(config: Config, data_fingerprint: str, samples_seen: int) -> dict[str, str]:
    """The tags of a model version that was trained with `config`."""
    return {
        "model": config.model.name,
        "objective": config.objective.name,
        "data_fingerprint": data_fingerprint,
        "samples_seen": str(samples_seen),
        "zero_stage": str(config.train.zero_stage),
        "git_commit": git_commit(),
        **{f"stack.{name}": version for name, version in stack_versions().items()},
    }


def stack_versions() -> dict[str, str]:
    """The versions of Python and of the packages in STACK, as installed."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in STACK}}


@functools.cache
def git_commit() -> str:
    """The commit of the code that runs, with `-dirty` where files differ from it; `unknown` outside a checkout.

    A job on a cluster runs from a copy without history: there the variable `CLIPLOOM_GIT_COMMIT` says it.
    """
    if told := os.environ.get("CLIPLOOM_GIT_COMMIT"):
        return told
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)
