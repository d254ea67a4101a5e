"""Runs a function over many items in Ray tasks, a bounded number at a time."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from cliploom import pools
from cliploom.errors import InputError
from cliploom.storage import StorageError

Item = TypeVar("Item")
Result = TypeVar("Result")
_LOOK_SECONDS = 5
Runner = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[tuple[Any, Any]]]  # in_tasks, or one like it


def in_tasks(
    function: Callable[[Item], Result], items: Iterable[Item], pool: str | None = None
) -> Iterator[tuple[Item, Result]]:
    """Each item with `function(item)`, in the items' order, on the nodes of a pool; needs a connection to Ray.

    Raises:
        InputError, StorageError: what the function raised of these; other exceptions come as Ray's, with their origin.
    """
    import ray

    task: Any = ray.remote(_call).options(label_selector=pools.selector(pool) or None)
    pending: deque[tuple[Item, Any]] = deque()
    window, looked = 0, -math.inf
    for item in items:
        if time.monotonic() - looked > _LOOK_SECONDS:  # nodes may have come
            window, looked = 4 * max(1, int(ray.cluster_resources().get("CPU", 1))), time.monotonic()
        pending.append((item, task.remote(function, item)))
        while len(pending) >= window:  # keeps all CPUs busy, and few items in memory
            yield _first(pending)
    while pending:
        yield _first(pending)


def in_pool(pool: str | None) -> Runner:
    """A runner on the nodes of a pool."""
    return functools.partial(in_tasks, pool=pool)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


def _first(pending: deque[tuple[Item, Any]]) -> tuple[Item, Any]:
    import ray

    item, result = pending.popleft()
    try:
        return item, ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise original(error) from None


def original(error: Exception) -> Exception:
    """The InputError or StorageError that a RayTaskError brings from its task; another as it is."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, InputError | StorageError):
        return type(cause)(str(cause).partition("\n")[0])  # ours is one line; Ray Data adds advice of its own
    return error
