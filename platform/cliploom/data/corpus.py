"""The captions of a data set, without its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cliploom.data import shards
from cliploom.data.faults import BadSample
from cliploom.data.manifest import Manifest
from cliploom.progress import Progress


@dataclass
class Corpus:
    """All captions of a manifest's samples, in order; iterating shows progress, and counts what can't be read."""

    manifest: Manifest
    captions: int = 0
    faults: Counter[str] = field(default_factory=Counter)  # samples without captions, by cause

    def __iter__(self) -> Iterator[str]:
        with Progress("shard", len(self.manifest.shards)) as progress:
            for number, shard in enumerate(self.manifest.shards):
                for member in shards.read_captions(shard, self.manifest.index(number)):
                    yield from self._captions(shard, member)
                progress.update(number + 1, f"{self.captions:,} captions")

    def _captions(self, shard: shards.Shard, member: bytes) -> list[str]:
        try:
            found = shards.captions(shard, member)
        except BadSample as fault:
            self.faults[fault.cause] += 1
            return []
        self.captions += len(found)
        return found
