"""The Ray Data stream: the plan's work items, read by CPU tasks anywhere in the cluster, in order to their workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cliploom.data.plan import WorkItem, work_items
from cliploom.data.reader import Batch, Fault, Source, reader

if TYPE_CHECKING:
    import ray.data


@dataclass(frozen=True)
class Stream:
    """The batches of a run, from any step on.

    Args:
        source: what is read.
        steps: steps of the whole run.
        global_batch_size: samples a step.
        micro_batch_size: most rows of a micro-batch.
        cpus_per_task: CPUs that a decoding task reserves.
    """

    source: Source
    steps: int
    global_batch_size: int
    micro_batch_size: int
    cpus_per_task: float

    def items(self, first_step: int, world_size: int) -> Iterator[WorkItem]:
        """The work items of all workers from `first_step` on, in the order in which they are read."""
        return work_items(first_step, self.steps, self.global_batch_size, world_size, self.micro_batch_size)

    def split(
        self, first_step: int, world_size: int, locality_hints: Sequence[str] | None
    ) -> list[ray.data.DataIterator]:
        """An iterator for each worker that hands out its micro-batches from `first_step` on."""
        import ray.data

        from cliploom.data.pace import Pace

        rows = [{"item": list(item)} for item in self.items(first_step, world_size)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        # The order of blocks is the order of items, and a worker's are every world_size-th.
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        dataset.context.custom_execution_callback_classes.append(Pace)
        read = dataset.map_batches(_task(self.source), batch_size=None, num_cpus=self.cpus_per_task)
        hints = list(locality_hints) if locality_hints else None
        return list(read.streaming_split(world_size, equal=False, locality_hints=hints))


def batches(
    iterator: ray.data.DataIterator, expected: Iterator[WorkItem], prefetch: int
) -> Iterator[tuple[WorkItem, Batch]]:
    """A worker's micro-batches, each checked to be the one that is expected.

    Raises:
        RuntimeError: another came, or none. Training on the wrong samples must not go unnoticed.
    """
    received = iter(iterator.iter_batches(batch_size=None, prefetch_batches=prefetch))  # type: ignore[arg-type]
    for item in expected:
        block = next(received, None)
        if block is None:
            raise RuntimeError(f"the stream ended before {item}")
        came = WorkItem(*block["item"][0].tolist())
        if came != item:
            raise RuntimeError(f"the stream brought {came} in place of {item}")
        faults = [Fault(**fault) for fault in json.loads(str(block["faults"][0]))]
        yield item, Batch(block["pixels"], block["tokens"], block["samples"], faults)


def _task(source: Source) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def read(block: dict[str, Any]) -> dict[str, Any]:
        [item] = (WorkItem(*numbers) for numbers in np.stack(block["item"]).tolist())
        batch = reader(source).read(item)
        faults = json.dumps([asdict(fault) for fault in batch.faults])
        return {
            "item": np.tile(np.asarray(item), (item.rows, 1)),
            "pixels": batch.pixels,
            "tokens": batch.tokens,
            "samples": batch.samples,
            "faults": np.array([faults] + [""] * (item.rows - 1), dtype=object),
        }

    return read
