"""The first pass: reads each pair once, applies the rules on single pairs, finds queries and digests."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliploom.data import shards
from cliploom.data.curation.facts import KEPT, RULE, Facts
from cliploom.data.curation.filters import caption_fault, image_fault
from cliploom.data.curation.matching import matcher
from cliploom.data.curation.phash import phash
from cliploom.data.faults import BadSample, is_text
from cliploom.data.shards import Shard, ShardIndex
from cliploom.data.transforms import open_image
from cliploom.settings.curation import CurateFilters

_AT_ONCE = 256  # pairs in memory


@dataclass(frozen=True)
class Scan:
    """One shard to be looked at."""

    shard: Shard
    index: ShardIndex
    facts: str  # URI of what is found, which must stand for these settings alone
    filters: CurateFilters
    phash: bool
    queries: str | None  # URI of the saved queries


class _Pair(NamedTuple):
    rule: int
    caption: bytes
    image: bytes
    phash: int
    queries: list[int]


def scan(item: Scan) -> NDArray[np.uint8]:
    """Find the facts of a shard's pairs, unless they are there; returns which rule drops each, or none."""
    try:
        return Facts.load(item.facts).rule
    except FileNotFoundError:
        facts = _facts(item)
        facts.save(item.facts)
        return facts.rule


def _facts(item: Scan) -> Facts:
    pairs = [_pair(item, image, member) for image, member in _samples(item)]
    counts = [len(pair.queries) for pair in pairs]
    return Facts(
        rule=np.array([pair.rule for pair in pairs], dtype=np.uint8),
        caption=_words([pair.caption for pair in pairs]),
        image=_words([pair.image for pair in pairs]),
        phash=np.array([pair.phash for pair in pairs], dtype=np.uint64),
        starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        queries=np.fromiter(itertools.chain.from_iterable(pair.queries for pair in pairs), np.int32, sum(counts)),
    )


def _samples(item: Scan) -> Iterator[tuple[bytes, bytes]]:
    for start in range(0, len(item.index), _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, len(item.index)))
        yield from shards.read_samples(item.shard, item.index, numbers)


def _pair(item: Scan, image: bytes, member: bytes) -> _Pair:
    """The facts of a pair; its image is decoded only where its captions pass, and something is asked of it."""
    digests, found, queries = (_digest(member), _digest(image)), 0, list[int]()
    try:
        captions = shards.captions(item.shard, member)
        digests = _digest(json.dumps(captions).encode()), digests[1]
        if not all(map(is_text, captions)):
            raise BadSample("caption is not UTF-8 text")
        if fault := caption_fault(captions, item.filters):
            raise BadSample(fault)
        if item.queries:
            queries = matcher(item.queries).find(captions)
            if not queries:
                raise BadSample("no query")
        found = _phash(item, image)
    except BadSample as bad:
        return _Pair(RULE[bad.cause], *digests, found, [])
    return _Pair(KEPT, *digests, found, queries)


def _phash(item: Scan, data: bytes) -> int:
    """The perceptual hash of an image that passes the rules on images; 0 where nothing asks for it."""
    if not (item.phash or item.filters.min_side or item.filters.max_aspect):
        return 0  # nothing is asked that takes decoding
    image = open_image(data)
    if fault := image_fault(*image.size, item.filters):
        raise BadSample(fault)
    return phash(image) if item.phash else 0


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _words(digests: list[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64).reshape(-1, 2)
