"""Memory that a process keeps: what the environment of computing processes is for, seen in page faults."""

from __future__ import annotations

import os
import subprocess
import sys

from cliploom import allocator

# Blocks of 48 MiB, above what a thread's own heap can hold, made and dropped in a thread, as in a training step.
CODE = """
import resource, threading
import torch

def work(count):
    for _ in range(count):
        torch.ones(12 << 20)

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=work, args=(count,))
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(5)
print(faults(100))
"""


def faults(environment: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return int(done.stdout)


def test_blocks_are_kept() -> None:
    alone = {"THP_MEM_ALLOC_ENABLE": "1"}
    assert faults(allocator.ENVIRONMENT) < faults(alone) / 10
