"""Checkpoints beside training: the state is copied at once, and written, digested and committed in a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor

from cliploom.errors import StorageError
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Attempt, Progress

log = logging.getLogger(__name__)


class SaveError(StorageError):
    """A checkpoint could not be written, for all the time that was spent on trying."""


class Saver:
    """Saves one checkpoint at a time. All workers must make one, and call it, at the same time.

    Args:
        folder: URI of the run's.
        attempt: whose checkpoints these are.
        keep: the last so many whole checkpoints stay.
        committed: called on rank 0 with the step of a checkpoint that is whole; in the thread.
    """

    def __init__(self, folder: str, attempt: Attempt, keep: int, committed: Callable[[int], None]) -> None:
        self._folder, self._attempt, self._keep, self._committed = folder, attempt, keep, committed
        self._group = dist.new_group(backend="gloo")  # the thread's own: the step's collectives go on beside it
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, progress: Progress, state: Mapping[str, Tensor]) -> None:
        """Save `state`, this worker's, which nobody may change any more; waits for the save before to end.

        Raises:
            Exception: what stopped the save before.
        """
        self.finish()
        self._thread = threading.Thread(target=self._work, args=(progress, state), name="saver", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until what is being saved is whole.

        Raises:
            Exception: what stopped it.
        """
        if self._thread:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what has stopped a save, if anything has; never waits.

        Raises:
            SaveError: nothing can be written there; nothing of the checkpoint counts.
            Exception: anything else.
        """
        if self._failure:
            raise self._failure

    def _work(self, progress: Progress, state: Mapping[str, Tensor]) -> None:
        try:
            self._save(progress, state)
        except OSError as error:
            reason = f"the checkpoint of step {progress.step} can't be saved in {self._folder}: {error}"
            self._failure = SaveError(reason)
        except BaseException as error:  # raised where the loop can see it
            self._failure = error

    def _save(self, progress: Progress, state: Mapping[str, Tensor]) -> None:
        rank = dist.get_rank()
        part = checkpoint.write_part(self._folder, self._attempt, progress.step, rank, state)
        parts: list[dict[str, Any]] = [{}] * dist.get_world_size()
        dist.all_gather_object(parts, part, group=self._group)
        if rank == 0:
            checkpoint.commit(self._folder, self._attempt, progress, parts)
            self._committed(progress.step)
            self._remove_old()

    def _remove_old(self) -> None:
        try:
            checkpoint.remove_old(self._folder, self._keep)
        except StorageError as error:  # what should go takes room till the next save, and nothing more
            log.warning("old checkpoints in %s can't be removed now, but after the next one: %s", self._folder, error)
