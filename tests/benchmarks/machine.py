"""What figures were measured on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from cliploom.settings.base import Precision
from cliploom.training.peak import cpus_have_bf16


def precisions() -> list[Precision]:
    """Those that are worth a measurement on this machine."""
    return ["fp32", "bf16"] if cpus_have_bf16() else ["fp32"]


def machine() -> dict[str, object]:
    """Date, commit, processor and versions, as every file of results holds them."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": described.stdout.strip(),
        "cpu": model[0].split(": ")[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def keep(place: Path, found: dict[str, object]) -> None:
    """Write down, and print, what a test has measured, with what it was measured on."""
    text = json.dumps({**machine(), "command": "pytest " + " ".join(sys.argv[1:]), **found}, indent=1)
    place.parent.mkdir(exist_ok=True)
    place.write_text(text + "\n")
    print(text)
