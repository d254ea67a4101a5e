"""cliploom's data plane, timed.

    python data_ours.py REQUEST    # a line of JSON; the answer is one

Request: {"what": "stream" | "tasks" | "kernel", "manifest", "image_size", "batch", "warm_up", "batches"}: the stream
through Ray Data into two workers that count; the same stretches read by Ray's tasks, without Ray Data; or the batches
read by two plain processes. Batches of each worker that are passed over, and those that are timed.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from data_peer import timed
from memory import Memory

from cliploom.cluster import connect
from cliploom.data import blocks, mixture, vocabulary
from cliploom.data.plan import WorkItem
from cliploom.data.reader import Batch, Reader, Source, reader
from cliploom.data.stream import Split, Stream, batches, stretches
from cliploom.settings.cluster import Ray
from cliploom.settings.data import Data

WORKERS = 2
CPUS_PER_TASK = 1.0  # beside workers that count, which reserve none
STRETCH = 768  # samples; the stream's are of that size too
PREFETCH = 2
MEMORY = blocks.Memory()  # each process has its own
STEPS = 1_000_000  # a long run, of which the first batches are measured


def stream(request: dict[str, Any]) -> float:
    """Samples a second through Ray Data, over all workers."""
    return _in_step(request, partial(batches, prefetch=PREFETCH))


def tasks(request: dict[str, Any]) -> float:
    """Samples a second through Ray's tasks and its object store alone: what is left for any stream through them."""
    return _in_step(request, _from_tasks)


def _from_tasks(split: Split) -> Iterator[tuple[WorkItem, Batch]]:
    import ray

    read = ray.remote(num_cpus=CPUS_PER_TASK)(_read_stretch)
    waiting: deque[Any] = deque()
    for stretch in stretches(split.items(), STRETCH):
        waiting.append(read.remote(split.stream.source, stretch))
        if len(waiting) > 2:
            yield from blocks.batches(ray.get(waiting.popleft()), split.stream.source.image_size)


def _read_stretch(source: Source, stretch: list[WorkItem]) -> Any:
    return blocks.read(reader(source), stretch, MEMORY)


def _in_step(request: dict[str, Any], received: Callable[[Split], Iterator[tuple[WorkItem, Batch]]]) -> float:
    import ray

    with connect(Ray(cpus=2, object_store_gb=3)):
        splits = _stream(request).split(0, WORKERS)
        workers: list[Any] = [ray.remote(num_cpus=0)(_Worker).remote(received, split) for split in splits]
        steps = iter(lambda: sum(ray.get([worker.step.remote() for worker in workers])), None)
        return timed(steps, request["warm_up"], request["batches"])


class _Worker:
    """Takes a batch a step, all workers together, as in training."""

    def __init__(self, received: Callable[[Split], Iterator[tuple[WorkItem, Batch]]], split: Split) -> None:
        self._batches = received(split)

    def step(self) -> int:
        return len(next(self._batches)[1].pixels)


def kernel(request: dict[str, Any]) -> float:
    """Samples a second in plain processes, over all of them."""
    processes = multiprocessing.get_context("spawn")
    together = processes.Barrier(WORKERS)
    answers = processes.Queue()
    splits = _stream(request).split(0, WORKERS)
    readers = [processes.Process(target=_read, args=(split, request, together, answers)) for split in splits]
    for each in readers:
        each.start()
    rates = [answers.get() for _ in readers]
    for each in readers:
        each.join()
    return float(sum(rates))


def _read(split: Split, request: dict[str, Any], together: Any, answers: Any) -> None:
    kernel = Reader(split.stream.source)

    def sizes() -> Iterator[int]:
        for number, item in enumerate(split.items()):
            if number == request["warm_up"]:
                together.wait()
            yield len(kernel.read(item).pixels)

    answers.put(timed(sizes(), request["warm_up"], request["batches"]))


def _stream(request: dict[str, Any]) -> Stream:
    found = mixture.choose(Data(manifest=request["manifest"]))
    digest = vocabulary.clip().digest
    source = Source(found.recipe, found.fingerprint, 0, 16, request["image_size"], (0.9, 1.0), None, digest)
    return Stream(source, STEPS, WORKERS * request["batch"], request["batch"], CPUS_PER_TASK)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    with Memory() as memory:
        rate = {"stream": stream, "tasks": tasks, "kernel": kernel}[asked["what"]](asked)
    print(json.dumps({"samples_a_second": rate, "pss_mib": memory.peak / 2**20}))
