"""cliploom's data plane, timed.

    python data_ours.py REQUEST    # a line of JSON; the answer is one

Request: {"what": "stream" | "kernel" | "kernel beside Ray", "manifest", "image_size", "batch", "warm_up", "batches"}:
the stream through Ray Data into two workers that count, or the same batches read by two plain processes, alone or
beside a Ray cluster that does nothing; batches of each worker that are passed over, and those that are timed.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Iterator
from typing import Any

import ray_alone
from data_peer import timed
from memory import Memory

from cliploom.data import mixture, vocabulary
from cliploom.data.reader import Reader, Source
from cliploom.data.stream import Split, Stream, batches
from cliploom.settings.data import Data

WORKERS = 2
CPUS_PER_TASK = 0.5  # so that three run beside workers of 0.25: two compute while one waits for Ray
PREFETCH = 2
STEPS = 1_000_000  # a long run, of which the first batches are measured


def stream(request: dict[str, Any]) -> float:
    """Samples a second through Ray Data, over all workers."""
    import ray

    ray_alone.start()
    splits = _stream(request).split(0, WORKERS)
    counter = ray.remote(num_cpus=0.25)(_count)
    rates = ray.get([counter.remote(split, request["warm_up"], request["batches"]) for split in splits])
    return float(sum(rates))


def _count(split: Split, warm_up: int, count: int) -> float:
    return timed((len(batch.pixels) for _, batch in batches(split, PREFETCH)), warm_up, count)


def kernel(request: dict[str, Any]) -> float:
    """Samples a second in plain processes, over all of them."""
    processes = multiprocessing.get_context("spawn")
    together = processes.Barrier(WORKERS)
    answers = processes.Queue()
    splits = _stream(request).split(0, WORKERS)
    readers = [processes.Process(target=_read, args=(split, request, together, answers)) for split in splits]
    for reader in readers:
        reader.start()
    rates = [answers.get() for _ in readers]
    for reader in readers:
        reader.join()
    return float(sum(rates))


def kernel_beside_ray(request: dict[str, Any]) -> float:
    """As `kernel`, on cores that a Ray cluster without work shares: what is left for any stream through Ray."""
    ray_alone.start()
    return kernel(request)


def _read(split: Split, request: dict[str, Any], together: Any, answers: Any) -> None:
    reader = Reader(split.stream.source)

    def sizes() -> Iterator[int]:
        for number, item in enumerate(split.items()):
            if number == request["warm_up"]:
                together.wait()
            yield len(reader.read(item).pixels)

    answers.put(timed(sizes(), request["warm_up"], request["batches"]))


def _stream(request: dict[str, Any]) -> Stream:
    found = mixture.choose(Data(manifest=request["manifest"]))
    digest = vocabulary.clip().digest
    source = Source(found.recipe, found.fingerprint, 0, 16, request["image_size"], (0.9, 1.0), None, digest)
    return Stream(source, STEPS, WORKERS * request["batch"], request["batch"], CPUS_PER_TASK)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    with Memory() as memory:
        rate = {"stream": stream, "kernel": kernel, "kernel beside Ray": kernel_beside_ray}[asked["what"]](asked)
    print(json.dumps({"samples_a_second": rate, "pss_mib": memory.peak / 2**20}))
