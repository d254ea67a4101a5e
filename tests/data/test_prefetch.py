"""Batches are drawn ahead in a thread, in order, and not without end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cliploom.data.prefetch import prefetched


def test_what_is_drawn_ahead_comes_in_order() -> None:
    assert list(prefetched(iter(range(1, 100)), 3)) == list(range(1, 100))


def test_no_more_is_drawn_than_was_said() -> None:
    drawn = threading.Semaphore(0)

    def source() -> Iterator[int]:
        for number in range(1, 100):
            drawn.release()
            yield number

    ahead = prefetched(source(), 3)
    for _ in range(3):
        drawn.acquire()
    assert not drawn.acquire(blocking=False)
    assert next(ahead) == 1
    drawn.acquire()
    assert not drawn.acquire(blocking=False)


def test_a_fault_is_raised_in_its_place() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    ahead = prefetched(source(), 4)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(ahead)


def test_who_stops_early_closes_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1, 100)
        finally:
            closed.set()

    ahead = prefetched(source(), 2)
    assert next(ahead) == 1
    ahead.close()  # type: ignore[attr-defined]
    assert closed.wait(10)
