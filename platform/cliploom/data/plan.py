"""The sample plan: which samples make global batch g, and which worker reads which of them.

A run's positions 0, 1, 2, ... run through epoch after epoch without a seam; global batch g is the positions
[g * G, (g + 1) * G). Which sample stands at a position is a pure function of the seed, the sizes of the shards and the
position, so that neither the number of workers nor a restart can change a batch.

An epoch is shuffled on two levels. Its shards are put in random order and cut into windows of K; the samples of a
window are put in random order together. Random order means sorted by a hash of (seed, epoch, what is sorted): a hash
has no state to save, and its values don't depend on a library's version.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliploom.data.hashing import mix

Integers = NDArray[np.int64]
_U64 = np.uint64

# What a hash is for: the same (seed, epoch) gives independent values for each of them.
_SHARDS, _SAMPLES, _REPLACEMENT, _RANDOMNESS, _PATCHES = range(5)


class Samples(NamedTuple):
    """Samples as parallel arrays, int64 [n]."""

    epoch: Integers
    shard: Integers  # number of the shard in the manifest
    index: Integers  # type: ignore[assignment]  # number of the sample in the shard; hides tuple.index


class WorkItem(NamedTuple):
    """One micro-batch of one worker: the positions [start, stop), padded to `rows` with samples of no weight."""

    step: int
    rank: int
    micro: int
    start: int
    stop: int
    rows: int


class Plan:
    """The order of all samples over all epochs.

    Args:
        shard_samples: number of samples of each shard, in the manifest's order.
        seed: of the shuffling.
        window_shards: shards that are shuffled together (K).
    """

    def __init__(self, shard_samples: Sequence[int], seed: int, window_shards: int) -> None:
        if sum(shard_samples) == 0:
            raise ValueError("a plan needs at least one sample")
        self.shard_samples = np.asarray(shard_samples, dtype=np.int64)
        self.samples = int(self.shard_samples.sum())
        self.seed = seed
        self.window_shards = window_shards
        self._windows = functools.lru_cache(maxsize=8)(self._epoch_windows)
        self._order = functools.lru_cache(maxsize=8)(self._window_order)

    def at(self, start: int, stop: int) -> Samples:
        """The samples at the positions [start, stop)."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.samples)
            _, bounds = self._windows(epoch)
            window = int(np.searchsorted(bounds, offset, side="right")) - 1
            last = min(stop - epoch * self.samples, int(bounds[window + 1]))
            shards, indices = self._order(epoch, window)
            inside = slice(offset - int(bounds[window]), last - int(bounds[window]))
            parts.append((np.full(last - offset, epoch, dtype=np.int64), shards[inside], indices[inside]))
            start += last - offset
        epochs, shards, indices = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Samples(epochs, shards, indices)

    def replacement(self, epoch: int, shard: int, index: int, attempt: int) -> tuple[int, int]:
        """(shard, index) of the sample that stands in for an unreadable one; the next `attempt` if it's bad as well."""
        drawn = mix(self.seed, _REPLACEMENT, epoch, shard, index, attempt) % _U64(self.samples)
        sample = self.at(epoch * self.samples + int(drawn), epoch * self.samples + int(drawn) + 1)
        return int(sample.shard[0]), int(sample.index[0])

    def randomness(self, epoch: int, shard: int, index: int) -> np.random.Generator:
        """The generator for all that is random about one visit of a sample: augmentation, choice of caption."""
        return np.random.Generator(np.random.PCG64(int(mix(self.seed, _RANDOMNESS, epoch, shard, index))))

    def _epoch_windows(self, epoch: int) -> tuple[Integers, Integers]:
        """The epoch's order of shards [shards], and the offsets at which its windows start [windows + 1]."""
        order = np.argsort(mix(self.seed, _SHARDS, epoch, np.arange(len(self.shard_samples))), kind="stable")
        starts = np.arange(0, len(order), self.window_shards)
        sizes = np.add.reduceat(self.shard_samples[order], starts)
        return order, np.concatenate([[0], np.cumsum(sizes)])

    def _window_order(self, epoch: int, window: int) -> tuple[Integers, Integers]:
        """(shard, index) of a window's samples, in order."""
        shards = self._windows(epoch)[0][window * self.window_shards : (window + 1) * self.window_shards]
        shard = np.repeat(shards, self.shard_samples[shards])
        index = np.concatenate([np.arange(self.shard_samples[s]) for s in shards])
        order = np.argsort(mix(self.seed, _SAMPLES, epoch, shard, index), kind="stable")
        return shard[order], index[order]


def kept_patches(seed: int, samples: Integers, total: int, kept: int) -> Integers:
    """Which patches of each image are seen, in their order: int64 [m, kept]; a function of seed, epoch and sample.

    Args:
        seed: of the run.
        samples: int64 [m, 3]: epoch, shard, index.
        total: patches of an image.
        kept: how many of them are seen.
    """
    epoch, shard, index = (samples[:, column, None] for column in range(3))
    drawn = mix(seed, _PATCHES, epoch, shard, index, np.arange(total))
    return np.sort(np.argsort(drawn, axis=1, kind="stable")[:, :kept], axis=1)


def rank_span(global_batch_size: int, world_size: int, rank: int) -> tuple[int, int]:
    """The part [start, stop) of every global batch that a worker reads.

    Raises:
        ValueError: there are more workers than samples in a global batch.
    """
    if world_size > global_batch_size:
        raise ValueError(f"a global batch of {global_batch_size} can't be cut for {world_size} workers")
    return rank * global_batch_size // world_size, (rank + 1) * global_batch_size // world_size


def micro_batches(global_batch_size: int, world_size: int, micro_batch_size: int) -> tuple[int, int]:
    """(number, rows) of the micro-batches of each worker: equal on all, none above `micro_batch_size` rows."""
    most = -(-global_batch_size // world_size)
    count = -(-most // micro_batch_size)
    return count, -(-most // count)


def work_items(
    first_step: int, last_step: int, global_batch_size: int, world_size: int, micro_batch_size: int
) -> Iterator[WorkItem]:
    """The micro-batches of steps [first_step, last_step): step by step, micro-batch by micro-batch, rank by rank."""
    count, rows = micro_batches(global_batch_size, world_size, micro_batch_size)
    spans = [rank_span(global_batch_size, world_size, rank) for rank in range(world_size)]
    for step in range(first_step, last_step):
        batch = step * global_batch_size
        for micro in range(count):
            for rank, (first, last) in enumerate(spans):
                start = min(first + micro * rows, last)
                stop = min(start + rows, last)
                yield WorkItem(step, rank, micro, batch + start, batch + stop, rows)
