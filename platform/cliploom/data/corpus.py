"""The captions of a data set, without its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cliploom.data import shards
from cliploom.data.faults import BadSample
from cliploom.data.manifest import Manifest
from cliploom.data.mixture import Mixture
from cliploom.progress import Progress


@dataclass
class Corpus:
    """All captions of a data set in order, less what is denied; iterating shows progress, and counts the unreadable."""

    manifest: Manifest | Mixture
    captions: int = 0
    faults: Counter[str] = field(default_factory=Counter)  # samples without captions, by cause

    def __iter__(self) -> Iterator[str]:
        with Progress("shard", len(self.manifest.shards)) as progress:
            for number, shard in enumerate(self.manifest.shards):
                denied = set(self.manifest.denied.get(number, ()))
                members = enumerate(shards.read_captions(shard, self.manifest.index(number)))
                for member in (member for index, member in members if index not in denied):
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
