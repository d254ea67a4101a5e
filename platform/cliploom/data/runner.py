"""Runs a function over many items in Ray tasks, a bounded number at a time, and tells what took the time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cliploom import pools
from cliploom.errors import InputError, StorageError

Item = TypeVar("Item")
Result = TypeVar("Result")
Runner = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[tuple[Any, Any]]]  # Tasks, or one like it

_LOOK_SECONDS = 5  # between two looks at how many CPUs there are
_SAY_SECONDS = 600  # between two lines on what took the time so far
_SCHEDULER = Path("/proc/thread-self/schedstat")  # nanoseconds on a CPU, nanoseconds of waiting for one, turns
_HELD_BACK = 0.5  # share of the CPUs' time without a task from which on the driver is what holds the job back


class Spent(NamedTuple):
    """Seconds of a task's thread."""

    computing: float = 0.0
    queueing: float = 0.0  # for a CPU that others use
    waiting: float = 0.0  # for something else than a CPU, which is storage as a rule

    @staticmethod
    def so_far() -> Spent:
        """Of this thread; `waiting` is that of a clock without an origin."""
        on_cpu = time.thread_time()
        try:
            queueing = int(_SCHEDULER.read_text().split()[1]) / 1e9
        except FileNotFoundError:  # Linux alone tells
            queueing = 0.0
        return Spent(on_cpu, queueing, time.perf_counter() - on_cpu - queueing)


class Answer(NamedTuple):
    """What a task sends back."""

    result: Any
    spent: Spent


class Tasks:
    """A `Runner` on Ray, which counts where the time of its tasks goes; needs a connection to Ray.

    Calling it gives each item with `function(item)`, in the items' order; it prints its summary every ten minutes.

    Args:
        pool: label of the nodes that work.

    Raises:
        InputError, StorageError: what a function raised of these; other exceptions come as Ray's, with their origin.
    """

    def __init__(self, pool: str | None = None) -> None:
        self._pool = pool
        self._spent, self._offered = Spent(), 0.0
        self._said = time.monotonic()

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        import ray

        task: Any = ray.remote(_call).options(label_selector=pools.selector(self._pool) or None)
        pending: deque[tuple[Item, Any]] = deque()
        cpus, looked = _cpus(), time.monotonic()
        for item in items:
            if (now := time.monotonic()) - looked > _LOOK_SECONDS:  # nodes may have come
                self._offered += cpus * (now - looked)
                cpus, looked = _cpus(), now
                self._say(now)
            pending.append((item, task.remote(function, item)))
            while len(pending) >= 4 * cpus:  # keeps all CPUs busy, and few items in memory
                yield self._first(pending)
        while pending:
            yield self._first(pending)
        self._offered += cpus * (time.monotonic() - looked)

    def _say(self, now: float) -> None:
        if now - self._said > _SAY_SECONDS:
            self._said = now
            print(self.summary(), flush=True)

    def _first(self, pending: deque[tuple[Item, Any]]) -> tuple[Item, Any]:
        import ray

        item, reference = pending.popleft()
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise original(error) from None
        self._spent = Spent(*(sum(both) for both in zip(self._spent, answer.spent, strict=True)))
        return item, answer.result

    def summary(self) -> str:
        """One line: what the cluster's CPUs did meanwhile, in shares, and the mend of what held the work back."""
        if not self._offered:
            return "no tasks"
        computing, queueing, waiting = self._spent
        idle = max(0.0, self._offered - sum(self._spent))
        shares = {"computing": computing, "busy with others": queueing, "waiting for storage": waiting}
        shares["without a task"] = idle
        total = sum(shares.values())
        said = ", ".join(f"{what} {100 * seconds / total:.0f} %" for what, seconds in shares.items())
        if idle > _HELD_BACK * total:
            mend = "too few shards to keep them busy, or the reading of the source is what takes the time"
        elif waiting > computing + queueing:
            mend = "a storage nearer to the nodes would help, or more nodes at the same time"
        else:
            mend = "more CPUs would help"
        return f"CPUs {said}: {mend}"


def _cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _call(function: Callable[[Item], Any], item: Item) -> Answer:
    before = Spent.so_far()
    result = function(item)
    return Answer(result, Spent(*(now - then for now, then in zip(Spent.so_far(), before, strict=True))))


def original(error: Exception) -> Exception:
    """The InputError or StorageError that a RayTaskError brings from its task; another as it is."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, InputError | StorageError):
        return type(cause)(str(cause).partition("\n")[0])  # ours is one line; Ray Data adds advice of its own
    return error
