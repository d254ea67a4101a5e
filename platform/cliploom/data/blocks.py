"""A stretch, several micro-batches of one worker in a row, as one block of Arrow memory, and back, without copies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cliploom.data.plan import WorkItem
from cliploom.data.reader import Batch, Fault, Reader
from cliploom.data.stalls import Work

_ARRAYS = ("pixels", "tokens", "samples")


class Memory:
    """Where a process puts the pixels of one stretch after another: new memory costs some 4 % of decoding."""

    def __init__(self) -> None:
        self._batch = Batch.empty(0, 0)

    def batch(self, rows: int, image_size: int) -> Batch:
        """A batch of `rows` rows with whatever was there before."""
        pixels = self._batch.pixels
        if len(pixels) < rows or pixels.shape[-1] != image_size:
            self._batch = Batch.empty(rows, image_size)
        return Batch(self._batch.pixels[:rows], self._batch.tokens[:rows], self._batch.samples[:rows])


def read(reader: Reader, stretch: Sequence[WorkItem], memory: Memory) -> pa.Table:
    """Read a stretch: a table of one row, so that nothing can cut it; it lies in `memory` until the next one does."""
    whole = memory.batch(sum(item.rows for item in stretch), reader.source.image_size)
    batches, start = [], 0
    for item in stretch:
        part = slice(start, start + item.rows)
        batches.append(Batch(whole.pixels[part], whole.tokens[part], whole.samples[part]))
        reader.fill(batches[-1], item)
        start = part.stop
    notes = [
        {"item": item, "faults": [asdict(fault) for fault in batch.faults], "work": batch.work}
        for item, batch in zip(stretch, batches, strict=True)
    ]
    columns: dict[str, pa.Array] = {name: _column(getattr(whole, name)) for name in _ARRAYS}
    return pa.table({**columns, "notes": pa.array([json.dumps(notes)])})


def batches(block: pa.Table, image_size: int) -> Iterator[tuple[WorkItem, Batch]]:
    """The micro-batches of a stretch's block; their arrays are the block's own memory."""
    pixels = _bytes(block, "pixels").reshape(-1, 3, image_size, image_size)
    tokens = _bytes(block, "tokens").view(np.int32).reshape(-1, Batch.CONTEXT)
    samples = _bytes(block, "samples").view(np.int64).reshape(-1, 3)
    start = 0
    for note in json.loads(block.column("notes")[0].as_py()):
        item = WorkItem(*note["item"])
        part = slice(start, start + item.rows)
        faults = [Fault(**fault) for fault in note["faults"]]
        yield item, Batch(pixels[part], tokens[part], samples[part], faults, Work(*note["work"]))
        start = part.stop


def _column(array: np.ndarray[Any, Any]) -> pa.Array:
    """An array's bytes as a column of one value."""
    bounds = pa.py_buffer(np.array([0, array.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, bounds, pa.py_buffer(array)])


def _bytes(block: pa.Table, name: str) -> NDArray[np.uint8]:
    [chunk] = block.column(name).chunks
    _, bounds, data = chunk.buffers()
    start, stop = np.frombuffer(bounds, np.int64)[chunk.offset : chunk.offset + 2]
    return np.frombuffer(data, np.uint8)[start:stop]
