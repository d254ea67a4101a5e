"""The worker's side of the stream: batches are made ready in a thread while the step before them runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from cliploom.data.reader import Batch

T = TypeVar("T")


def prefetched(source: Iterator[T], size: int) -> Iterator[T]:
    """The elements of `source`, drawn by a thread of its own, at most `size` of them before they are asked for.

    The thread begins at once. What `source` raises is raised here in its place; None ends it.
    """
    thread = ThreadPoolExecutor(1, "prefetch")
    return _drain(thread, deque(thread.submit(next, source, None) for _ in range(size)), source)


def _drain(thread: ThreadPoolExecutor, ready: deque[Future[T | None]], source: Iterator[T]) -> Iterator[T]:
    try:
        while (element := ready.popleft().result()) is not None:
            ready.append(thread.submit(next, source, None))
            yield element
    finally:
        for waiting in ready:
            waiting.cancel()
        if hasattr(source, "close"):  # of a generator; in its own thread, since it may be running there
            thread.submit(source.close)
        thread.shutdown(wait=False)


def pinned(batch: Batch) -> Batch:
    """The batch in page-locked memory, from which a GPU copies while it computes; as it is where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        return batch
    pixels, tokens = (torch.tensor(array).pin_memory().numpy() for array in (batch.pixels, batch.tokens))
    return replace(batch, pixels=pixels, tokens=tokens)
