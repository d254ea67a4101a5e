"""What a decoding task does: turn positions of the plan into pixels and tokens. Knows nothing of Ray."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cliploom import storage
from cliploom.data import cache, shards
from cliploom.data import mixture as mixtures
from cliploom.data import vocabulary as vocabularies
from cliploom.data.faults import BadSample
from cliploom.data.plan import Plan, WorkItem
from cliploom.data.stalls import Work
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import training_pixels
from cliploom.errors import InputError

_MOST_REPLACEMENTS = 100  # in a row, for one position


@dataclass(frozen=True)
class Source:
    """What is read, and how; a key of the caches of a process, so small and hashable."""

    data: mixtures.Recipe
    fingerprint: str
    seed: int
    window_shards: int
    image_size: int
    crop_scale: tuple[float, float]
    vocabulary: str | None  # URI; None is CLIP's
    vocabulary_digest: str


@dataclass(frozen=True)
class Fault:
    """A sample whose content can't be used."""

    shard: str
    key: str
    cause: str


@dataclass
class Batch:
    """A micro-batch on the host: pixels uint8 [m, 3, H, W], tokens int32 [m, 77], and which samples they are.

    `samples` is int64 [m, 3]: epoch, shard, index of what was read; -1 for padding. `work` is what making it took.
    """

    CONTEXT: ClassVar = 77

    pixels: NDArray[np.uint8]
    tokens: NDArray[np.int32]
    samples: NDArray[np.int64]
    faults: list[Fault] = field(default_factory=list)
    work: Work = field(default_factory=Work)

    @classmethod
    def empty(cls, rows: int, image_size: int) -> Batch:
        """Padding alone, for pixels of H = W = `image_size`."""
        return cls(
            pixels=np.zeros((rows, 3, image_size, image_size), np.uint8),
            tokens=np.zeros((rows, cls.CONTEXT), np.int32),
            samples=np.full((rows, 3), -1, np.int64),
        )


class Reader:
    """Reads work items of one source.

    Raises:
        InputError: a manifest or the vocabulary is another than the one that the source was made with.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.manifest = mixtures.load(source.data)
        if self.manifest.fingerprint != source.fingerprint:
            raise InputError(f"{self.manifest.uri} has changed since the run began: restore it, or begin a run anew")
        self.plan = plan_of(self.manifest, source)
        self.tokenizer = _tokenizer(source.vocabulary, source.vocabulary_digest)
        self._downloader = (
            cache.Downloader() if any(storage.is_s3(shard.uri) for shard in self.manifest.shards) else None
        )

    def read(self, item: WorkItem) -> Batch:
        """The micro-batch that `item` names; samples that can't be read are replaced by the plan's rule.

        Raises:
            InputError: a shard is gone or has changed, or one unreadable sample follows another without end.
        """
        batch = Batch.empty(item.rows, self.source.image_size)
        self.fill(batch, item)
        return batch

    def fill(self, batch: Batch, item: WorkItem) -> None:
        """As `read`, into a batch of `item.rows` rows, over what it holds."""
        reading = decoding = 0.0
        batch.pixels[item.stop - item.start :] = 0
        batch.samples[:] = -1
        captions = [""] * item.rows  # padding gets an empty caption, which is a valid row of tokens
        visits = np.stack(self.plan.at(item.start, item.stop), axis=1) if item.stop > item.start else batch.samples[:0]
        for shard in np.unique(visits[:, 1]):
            rows = np.flatnonzero(visits[:, 1] == shard)
            rows = rows[np.argsort(visits[rows, 2], kind="stable")]
            began = time.perf_counter()
            index = self.manifest.index(int(shard))
            found = shards.read_samples(self.manifest.shards[shard], index, visits[rows, 2].tolist())
            read = time.perf_counter()
            for row, encoded in zip(rows.tolist(), found, strict=True):
                visit = tuple(visits[row].tolist())
                captions[row], batch.samples[row] = self._usable(encoded, visit, batch.pixels[row], batch.faults)
            reading += read - began
            decoding += time.perf_counter() - read
        began = time.perf_counter()
        batch.tokens[:] = self.tokenizer.encode_batch(captions)
        batch.work = Work(reading, decoding, time.perf_counter() - began)
        if self._downloader and item.stop > item.start:
            following = (self.manifest.shards[number] for number in self.plan.next_shards(item.stop - 1))
            self._downloader.ask([(shard.uri, shard.bytes, shard.digest) for shard in following])

    def _usable(
        self, encoded: tuple[bytes, bytes], visit: tuple[int, int, int], pixels: NDArray[np.uint8], faults: list[Fault]
    ) -> tuple[str, tuple[int, int, int]]:
        """Caption and identity of a visit's sample, or of the first usable one in its place; fills in its pixels."""
        epoch, shard, index = visit
        for attempt in range(_MOST_REPLACEMENTS):
            try:
                return self._decode(encoded, epoch, shard, index, pixels), (epoch, shard, index)
            except BadSample as error:
                place = self.manifest.shards[shard]
                faults.append(Fault(place.uri, self.manifest.index(shard).keys[index], error.cause))
            shard, index = self.plan.replacement(*visit, attempt)
            [encoded] = shards.read_samples(self.manifest.shards[shard], self.manifest.index(shard), [index])
        raise InputError(f"{_MOST_REPLACEMENTS} samples in a row of {self.manifest.uri} can't be read: {faults[-1]}")

    def _decode(
        self, encoded: tuple[bytes, bytes], epoch: int, shard: int, index: int, pixels: NDArray[np.uint8]
    ) -> str:
        random = self.plan.randomness(epoch, shard, index)
        caption = _choose(shards.captions(self.manifest.shards[shard], encoded[1]), random)
        pixels[:] = training_pixels(encoded[0], self.source.image_size, self.source.crop_scale, random)
        return caption


def plan_of(mixture: mixtures.Mixture, source: Source) -> Plan:
    """The plan of a source's samples."""
    return Plan(mixture.parts(), source.seed, source.window_shards)


@functools.lru_cache(maxsize=2)
def reader(source: Source) -> Reader:
    """The process's reader of a source: manifest, plan and tokenizer are loaded once, not once a task."""
    return Reader(source)


@functools.lru_cache(maxsize=2)
def _tokenizer(uri: str | None, digest: str) -> Tokenizer:
    return Tokenizer(vocabulary=vocabularies.load(uri, digest))


def _choose(captions: Sequence[str], random: np.random.Generator) -> str:
    usable = [caption for caption in captions if caption.strip()]
    if not usable:
        raise BadSample("empty caption")
    return usable[int(random.integers(len(usable)))]
