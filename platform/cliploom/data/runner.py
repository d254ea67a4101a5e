"""Runs a function over many items in Ray tasks, a bounded number at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from cliploom.errors import InputError
from cliploom.storage import StorageError

Item = TypeVar("Item")
Result = TypeVar("Result")
Runner = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[tuple[Any, Any]]]  # in_tasks, or one like it


def in_tasks(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Each item with `function(item)`, in the items' order; needs a connection to Ray.

    Raises:
        InputError, StorageError: what the function raised of these; other exceptions come as Ray's, with their origin.
    """
    import ray

    task: Any = ray.remote(_call)
    window = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # keeps all CPUs busy, and few items in memory
    pending: deque[tuple[Item, Any]] = deque()
    for item in items:
        pending.append((item, task.remote(function, item)))
        if len(pending) == window:
            yield _first(pending)
    while pending:
        yield _first(pending)


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
