"""The Ray Data stream: the plan's work items, read by CPU tasks anywhere in the cluster, in order to their workers.

Each worker draws its own part of the plan, from its first step to the run's end, in executions of Ray Data that live in
the worker. A task reads a stretch, several of the worker's micro-batches in a row, into one block: a task and a block
cost Ray some 10 ms, which is much for a small micro-batch. An execution ends after `_EXECUTION` stretches and the next
one begins, so that neither its start nor its memory grows with the run.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from cliploom import pools
from cliploom.data import blocks
from cliploom.data.plan import WorkItem, work_items
from cliploom.data.prefetch import pinned, prefetched
from cliploom.data.reader import Batch, Source, reader
from cliploom.data.runner import original

_STRETCH_BYTES = 128 << 20  # of pixels, where the object store is large
_EXECUTION = 512  # stretches
_TAKEN = 2  # stretches that Ray Data has handed out: the one that is used, and the one after it


@dataclass(frozen=True)
class Stream:
    """The batches of a run, from any step on.

    Args:
        source: what is read.
        steps: steps of the whole run.
        global_batch_size: samples a step.
        micro_batch_size: most rows of a micro-batch.
        cpus_per_task: CPUs that a decoding task reserves.
        pool: nodes that decode.
    """

    source: Source
    steps: int
    global_batch_size: int
    micro_batch_size: int
    cpus_per_task: float
    pool: str | None = None

    def items(self, first_step: int, world_size: int) -> Iterator[WorkItem]:
        """The work items of all workers from `first_step` on, in the order in which they are read."""
        return work_items(first_step, self.steps, self.global_batch_size, world_size, self.micro_batch_size)

    def split(self, first_step: int, world_size: int) -> list[Split]:
        """Each worker's part, from `first_step` on."""
        return [Split(self, first_step, rank, world_size) for rank in range(world_size)]


def settle() -> None:
    """Have what Ray Data keeps for a whole cluster on this process's node.

    Its two actors live on the node of whoever reads first. A worker's node would never be idle again, and taken away
    it would take them with it.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )
    from ray.data._internal.stats import get_or_create_stats_actor

    get_or_create_stats_actor()
    get_or_create_autoscaling_coordinator()


@dataclass(frozen=True)
class Split:
    """One worker's part of the stream."""

    stream: Stream
    first_step: int
    rank: int
    world_size: int

    def items(self) -> Iterator[WorkItem]:
        """Its work items, in order."""
        return itertools.islice(self.stream.items(self.first_step, self.world_size), self.rank, None, self.world_size)


def stretches(items: Iterator[WorkItem], most_rows: int) -> Iterator[list[WorkItem]]:
    """Items in order, so many together as have `most_rows` rows, one at least; fewer at first, for an early start."""
    count = 1
    while stretch := list(itertools.islice(items, count)):
        yield stretch
        count = max(1, min(2 * count, most_rows // stretch[0].rows))


def batches(split: Split, prefetch: int) -> Iterator[tuple[WorkItem, Batch]]:
    """A worker's micro-batches, each checked to be the one that its plan says; their arrays may be read-only.

    Reading begins at once, in a thread. For this worker the object store holds `_ahead` and `_TAKEN` stretches and
    `prefetch` micro-batches at most, and what was done with so lately that Ray has not let go of it.

    Raises:
        InputError, StorageError: what its tasks raised of these.
        RuntimeError: another came, or none. Training on the wrong samples must not go unnoticed.
    """
    return prefetched(_checked(_received(split, prefetch), split.items()), prefetch)


def _checked(
    received: Iterator[tuple[WorkItem, Batch]], expected: Iterator[WorkItem]
) -> Iterator[tuple[WorkItem, Batch]]:
    for item in expected:
        found = next(received, None)
        if found is None:
            raise RuntimeError(f"the stream ended before {item}")
        came, batch = found
        if came != item:
            raise RuntimeError(f"the stream brought {came} in place of {item}")
        yield item, pinned(batch)


def _received(split: Split, prefetch: int) -> Iterator[tuple[WorkItem, Batch]]:
    """The worker's items and their batches, execution after execution."""
    todo = stretches(split.items(), _stretch_bytes(split, prefetch) // (3 * split.stream.source.image_size**2))
    while execution := list(itertools.islice(todo, _EXECUTION)):
        for block in _execute(split, execution):
            yield from blocks.batches(block, split.stream.source.image_size)


def _ahead(split: Split) -> int:
    """Stretches that wait for a CPU, are read or are ready: as many as can be read at once, and a quarter more."""
    stream = split.stream
    tasks = max(1, math.ceil(pools.capacity(stream.pool).get("CPU", 0) / stream.cpus_per_task / split.world_size))
    return tasks + math.ceil(tasks / 4)


def _stretch_bytes(split: Split, prefetch: int) -> int:
    """Of pixels, such that all that the workers hold, and as much again that is done with, fits the object store."""
    store = pools.capacity(split.stream.pool).get("object_store_memory", 0)
    pixels = 3 * split.stream.source.image_size**2
    share = store / (2 * split.world_size) - prefetch * split.stream.micro_batch_size * pixels
    return min(_STRETCH_BYTES, int(share / (_ahead(split) + _TAKEN)))


def _execute(split: Split, execution: list[list[WorkItem]]) -> Iterator[pa.Table]:
    """The blocks of stretches, in their order."""
    import ray
    import ray.data

    from cliploom.data import executor

    stream = split.stream
    rows = [{"stretch": [list(item) for item in stretch]} for stretch in execution]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    executor.configure(dataset.context, _ahead(split))
    read = dataset.map_batches(
        _task(stream.source),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=stream.cpus_per_task,
        label_selector=pools.selector(stream.pool) or None,
    )
    try:
        yield from read.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayTaskError as error:
        raise original(error) from None


def _task(source: Source) -> Callable[[pa.Table], pa.Table]:
    def read(block: pa.Table) -> pa.Table:
        [stretch] = block.column("stretch").to_pylist()
        return blocks.read(reader(source), [WorkItem(*item) for item in stretch], _memory())

    return read


@functools.lru_cache(maxsize=1)
def _memory() -> blocks.Memory:
    """The process's own: Ray has copied a block when it begins the next task."""
    return blocks.Memory()
