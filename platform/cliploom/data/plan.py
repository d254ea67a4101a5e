"""The sample plan: which samples make global batch g, and which worker reads which of them.

A run's positions 0, 1, 2, ... run through epoch after epoch without a seam; global batch g is the positions
[g * G, (g + 1) * G). Which sample stands at a position is a pure function of the seed, the parts of the mixture and the
position, so that neither the number of workers nor a restart can change a batch.

A part is a manifest with a weight; mostly there is one, of weight 1. Each part has an order of its own: pass after pass
over its N samples, those of a deny-list left out. A pass is shuffled on two levels. Its shards are put in random order
and cut into windows of K; the samples of a window are put in random order together. Random order means sorted by a hash
of (seed, pass, what is sorted): a hash has no state to save, and its values don't depend on a library's version.

An epoch is n_i = round(weight_i * N_i) draws of each part i, which go on where the epoch before left the part's order.
So at any time in a run each sample of a part has been drawn equally often, or once more than the others. The draws are
interleaved in T = ceil(sum(n) / 64) turns an epoch: before turn t, t * n_i // T draws of part i have been made, and the
draws of one turn are put in random order. Any stretch of batches is mixed as the whole is, and the state of the mixture
at a position is arithmetic.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliploom.data.hashing import mix

Integers = NDArray[np.int64]
_U64 = np.uint64
_TURN = 64  # draws; few, so that small batches are mixed as well

# What a hash is for: the same (seed, pass) gives independent values for each of them.
_SHARDS, _SAMPLES, _REPLACEMENT, _RANDOMNESS, _PATCHES, _MIXTURE, _DIGEST = range(7)
DIGEST_RANGE = 2**53  # a digest is a whole number that a float holds


class Part(NamedTuple):
    """One manifest of a mixture."""

    shard_samples: Sequence[int] | Integers  # number of samples of each shard, in the manifest's order
    weight: float = 1.0  # passes an epoch
    denied: Mapping[int, Sequence[int]] = {}  # by shard of this part: which of its samples are left out


class Samples(NamedTuple):
    """Samples as parallel arrays, int64 [n]."""

    epoch: Integers  # which pass over the sample's part this is; with one part of weight 1 it is the run's epoch
    shard: Integers  # number of the shard, counted through all parts
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
        parts: of the mixture.
        seed: of the shuffling.
        window_shards: shards that are shuffled together (K).

    Attributes:
        samples: draws an epoch.

    Raises:
        ValueError: an epoch has no draw of a part, since it is empty or its weight is too small.
    """

    def __init__(self, parts: Sequence[Part], seed: int, window_shards: int) -> None:
        self._first_shards = [0, *itertools.accumulate(len(part.shard_samples) for part in parts)]
        orders = zip(parts, self._first_shards[:-1], strict=True)
        self._orders = [_Order(part, first, seed, window_shards) for part, first in orders]
        draws = [round(part.weight * order.samples) for part, order in zip(parts, self._orders, strict=True)]
        if not all(draws):
            raise ValueError(f"an epoch has no draw of part {draws.index(0)}")
        self.samples = sum(draws)
        self.seed = seed
        self._turns = -(-self.samples // _TURN)
        self._draws = np.array(draws, dtype=np.int64)[:, None]

    def at(self, start: int, stop: int) -> Samples:
        """The samples at the positions [start, stop)."""
        part, before = self._mixed(start, stop)
        columns = np.empty((3, stop - start), dtype=np.int64)
        for number, order in enumerate(self._orders):
            rows = np.flatnonzero(part == number)
            if len(rows):
                columns[:, rows] = np.stack(order.at(before[number], before[number] + len(rows)))
        return Samples(*columns)

    def replacement(self, epoch: int, shard: int, index: int, attempt: int) -> tuple[int, int]:
        """(shard, index) of the sample that stands in for an unreadable one; the next `attempt` if it's bad as well.

        It is one of the same part, so that bad samples don't change the mixture.
        """
        order = self._orders[bisect.bisect_right(self._first_shards, shard) - 1]
        drawn = mix(self.seed, _REPLACEMENT, epoch, shard, index, attempt) % _U64(order.samples)
        sample = order.at(epoch * order.samples + int(drawn), epoch * order.samples + int(drawn) + 1)
        return int(sample.shard[0]), int(sample.index[0])

    def randomness(self, epoch: int, shard: int, index: int) -> np.random.Generator:
        """The generator for all that is random about one visit of a sample: augmentation, choice of caption."""
        return np.random.Generator(np.random.PCG64(int(mix(self.seed, _RANDOMNESS, epoch, shard, index))))

    def next_shards(self, position: int) -> list[int]:
        """The shards that are read next: of each part, those of the window after the one that `position` is in."""
        _, before = self._mixed(position, position + 1)
        windows = (order.next_window(draw) for draw, order in zip(before, self._orders, strict=True))
        return list(itertools.chain.from_iterable(windows))

    def _mixed(self, start: int, stop: int) -> tuple[Integers, list[int]]:
        """The part that each position of [start, stop) draws from [n], and each part's draws before `start`."""
        turns = np.arange(self._turn(start), self._turn(stop - 1) + 2)
        drawn = self._drawn(turns)
        counts = np.diff(drawn)
        first = int(drawn[:, 0].sum())
        part = np.repeat(np.tile(np.arange(len(counts)), len(turns) - 1), counts.T.ravel())
        turn = np.repeat(turns[:-1], counts.sum(axis=0))
        part = part[np.lexsort((mix(self.seed, _MIXTURE, first + np.arange(len(part))), turn))]
        skipped = np.bincount(part[: start - first], minlength=len(counts))
        return part[start - first : stop - first], (drawn[:, 0] + skipped).tolist()

    def _turn(self, position: int) -> int:
        """The turn that holds a position."""
        first = position // self.samples * self._turns
        turns = range(first, first + self._turns)
        return turns[bisect.bisect_right(turns, position, key=lambda turn: int(self._drawn(turn).sum())) - 1]

    def _drawn(self, turns: int | Integers) -> Integers:
        """Draws of each part before each of these turns, int64 [parts, turns]."""
        epoch, turn = np.divmod(turns, self._turns)
        each, rest = np.divmod(self._draws, self._turns)  # apart, since turn * draws might pass 2^63
        return np.asarray(epoch * self._draws + turn * each + turn * rest // self._turns)


class _Order:
    """The order of one part's samples: pass after pass, each an epoch of its own."""

    def __init__(self, part: Part, first_shard: int, seed: int, window_shards: int) -> None:
        self._part = part
        self._first_shard = first_shard
        self._seed = seed
        self._window_shards = window_shards
        self._kept = np.array(part.shard_samples, dtype=np.int64)
        for shard, denied in part.denied.items():
            self._kept[shard] -= len(denied)
        self.samples = int(self._kept.sum())
        self._windows = functools.lru_cache(maxsize=8)(self._epoch_windows)
        self._order = functools.lru_cache(maxsize=8)(self._window_order)

    def at(self, start: int, stop: int) -> Samples:
        """The samples of the part's draws [start, stop)."""
        pieces = []
        while start < stop:
            epoch, offset = divmod(start, self.samples)
            _, bounds = self._windows(epoch)
            window = int(np.searchsorted(bounds, offset, side="right")) - 1
            last = min(stop - epoch * self.samples, int(bounds[window + 1]))
            shards, indices = self._order(epoch, window)
            inside = slice(offset - int(bounds[window]), last - int(bounds[window]))
            pieces.append((np.full(last - offset, epoch, dtype=np.int64), shards[inside], indices[inside]))
            start += last - offset
        epochs, shards, indices = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return Samples(epochs, shards, indices)

    def next_window(self, draw: int) -> list[int]:
        """The shards of the window after the one that the part's draw is in."""
        epoch, offset = divmod(draw, self.samples)
        _, bounds = self._windows(epoch)
        window = int(np.searchsorted(bounds, offset, side="right"))
        epoch, window = (epoch, window) if window + 1 < len(bounds) else (epoch + 1, 0)
        found: list[int] = (self._first_shard + self._window_shards_of(epoch, window)).tolist()
        return found

    def _epoch_windows(self, epoch: int) -> tuple[Integers, Integers]:
        """The epoch's order of shards [shards], and the offsets at which its windows start [windows + 1]."""
        numbers = self._first_shard + np.arange(len(self._kept))
        order = np.argsort(mix(self._seed, _SHARDS, epoch, numbers), kind="stable")
        starts = np.arange(0, len(order), self._window_shards)
        sizes = np.add.reduceat(self._kept[order], starts)
        return order, np.concatenate([[0], np.cumsum(sizes)])

    def _window_order(self, epoch: int, window: int) -> tuple[Integers, Integers]:
        """(shard, index) of a window's samples, in order."""
        shards = self._window_shards_of(epoch, window)
        shard = np.repeat(self._first_shard + shards, self._kept[shards])
        index = np.concatenate([self._indices(int(number)) for number in shards])
        order = np.argsort(mix(self._seed, _SAMPLES, epoch, shard, index), kind="stable")
        return shard[order], index[order]

    def _window_shards_of(self, epoch: int, window: int) -> Integers:
        """The shards of a window, counted in this part."""
        return self._windows(epoch)[0][window * self._window_shards : (window + 1) * self._window_shards]

    def _indices(self, shard: int) -> Integers:
        """The numbers of a shard's samples that are not denied."""
        return np.delete(np.arange(self._part.shard_samples[shard]), self._part.denied.get(shard, []))


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


def digest(samples: Integers, position: int) -> int:
    """A number below 2^53 that says which samples stand where in a batch.

    Those of a batch's parts, added up modulo 2^53, make the batch's, however it is cut.

    Args:
        samples: int64 [m, 3]: epoch, shard, index; -1 where there is none.
        position: of the first of them.
    """
    real = samples[:, 0] >= 0
    words = (np.arange(position, position + len(samples))[real], *samples[real].T)
    return int((mix(_DIGEST, *words) >> _U64(11)).sum(dtype=_U64)) % DIGEST_RANGE


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
