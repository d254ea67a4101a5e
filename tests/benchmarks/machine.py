"""What figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

from cliploom.settings.evaluation import Precision

BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux calls a processor's instructions for it


def precisions() -> list[Precision]:
    """Those that this processor has instructions for; without, bf16 takes some twenty times as long as fp32."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return ["fp32", "bf16"] if flags & BF16 else ["fp32"]


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
