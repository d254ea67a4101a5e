"""At most so many pairs a query, whatever the shards and their number, in memory that the pairs don't add to.

A query keeps the pairs with the smallest hash(seed, pair, query). Where the last of them lies is found by radix
selection: a pass counts, for each query with too many, how many of its pairs have each value of the hash's first bits;
the bin in which the limit falls is cut by the next bits in the next pass, until the limit falls on a bin's edge. After
a first pass that counts each query's pairs it takes about log256(pairs of the most frequent query) passes over facts.
Memory is 128 MiB for counts, and some 40 bytes a query.

Pairs of the same content have the same hash; where the limit falls among them, those that come first stay.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliploom import storage
from cliploom.data.curation.facts import KEPT, RULE, Facts, Pass, Slice
from cliploom.data.curation.matching import hashes
from cliploom.data.hashing import mix

_ALL = np.uint64(2**64 - 1)
_HASH_BITS = 64
_DIGIT_BITS = 8
_MOST_CELLS = 1 << 24  # counts in memory, 8 bytes each
_ABOVE = RULE["above the limit of its queries"]


@dataclass(frozen=True)
class _Search:
    """How far the limits are known; arrays by query."""

    row: NDArray[np.int32]  # [queries], of the table of counts; -1 where the limit is found
    prefix: NDArray[np.uint64]  # [queries], the limit's first bits
    known: NDArray[np.uint64]  # [], how many bits
    digit: NDArray[np.uint64]  # [], how many bits are counted next


@dataclass(frozen=True)
class _Limits:
    """Which pairs queries keep; arrays by query."""

    last: NDArray[np.uint64]  # [queries], the largest hash that a query keeps
    partly: NDArray[np.bool_]  # [queries], whether it keeps only some of the pairs with that hash


class Tables(NamedTuple):
    """What tasks look things up in."""

    queries: str  # URI of the saved queries
    folder: str  # URI of a folder of this attempt, for what is handed to tasks
    seed: int


def count(over: Pass, queries: int) -> NDArray[np.int64]:
    """How many kept pairs contain each query, int64 [queries]."""
    total = np.zeros(queries, dtype=np.int64)
    for _, (found, counts) in over("count pairs of queries", _count):
        total[found] += counts
    return total


def balance(over: Pass, tables: Tables, per_query: int, verdicts: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Drop the pairs that none of their queries keeps.

    Args:
        over: makes a pass over all shards.
        per_query: most pairs a query keeps.
        verdicts: of all pairs, uint8 [pairs of the manifest]; is changed.

    Returns:
        How many pairs contained each query before, int64 [queries].
    """
    before = count(over, len(hashes(tables.queries)))
    limits, rest = _find_limits(over, tables, per_query, before)
    place = storage.join(tables.folder, "limits.npz")
    _save(place, limits)
    task = functools.partial(_decide, tables=tables, limits=place)
    for item, (found, pairs, queries) in over("choose pairs", task):
        for pair, query in zip(pairs.tolist(), queries.tolist(), strict=True):  # in the order of the manifest
            if rest[query]:
                rest[query] -= 1
                found[pair] = KEPT
        verdicts[item.first : item.first + len(found)] = found
    return before


def _find_limits(
    over: Pass, tables: Tables, per_query: int, counts: NDArray[np.int64]
) -> tuple[_Limits, NDArray[np.int64]]:
    """The limits, and how many pairs of the last hash the queries keep that keep some of them, int64 [queries]."""
    limits = _Limits(np.full(len(counts), _ALL), np.zeros(len(counts), dtype=bool))
    rest = np.where(counts > per_query, per_query, 0)
    prefix = np.zeros(len(counts), dtype=np.uint64)
    active = np.flatnonzero(counts > per_query)
    known = 0
    while len(active):
        digit = min(_DIGIT_BITS, _HASH_BITS - known, max(1, (_MOST_CELLS // len(active)).bit_length() - 1))
        row = np.full(len(counts), -1, dtype=np.int32)
        row[active] = np.arange(len(active))
        place = storage.join(tables.folder, f"search-{known}.npz")
        _save(place, _Search(row, prefix, np.array(known, np.uint64), np.array(digit, np.uint64)))
        cells = np.zeros(len(active) << digit, dtype=np.int64)
        task = functools.partial(_histogram, tables=tables, search=place)
        for _, (found, number) in over(f"limits of {len(active)} queries", task):
            cells[found] += number
        known += digit
        active = _narrow(active, cells.reshape(len(active), -1), prefix, rest, known, limits)
    return limits, rest


def _narrow(
    active: NDArray[np.int64],
    cells: NDArray[np.int64],
    prefix: NDArray[np.uint64],
    rest: NDArray[np.int64],
    known: int,
    limits: _Limits,
) -> NDArray[np.int64]:
    """Add the digit that was counted to the prefixes of the active queries; returns those whose limit is still open."""
    sums = np.cumsum(cells, axis=1, out=cells)
    digit = np.argmax(sums >= rest[active, None], axis=1)
    each = np.arange(len(active))
    below = np.where(digit > 0, sums[each, digit - 1], 0)
    inside = sums[each, digit] - below
    rest[active] -= below
    prefix[active] = prefix[active] * np.uint64(cells.shape[1]) + digit.astype(np.uint64)
    whole = rest[active] == inside  # the limit is the bin's upper edge
    found = active[whole | (known == _HASH_BITS)]
    unknown = _HASH_BITS - known
    limits.last[found] = (prefix[found] << np.uint64(unknown)) | np.uint64((1 << unknown) - 1)
    limits.partly[active[~whole]] = known == _HASH_BITS
    rest[active[whole]] = 0
    return active[~whole] if known < _HASH_BITS else active[:0]


def _count(item: Slice) -> tuple[NDArray, NDArray]:
    _, queries = _matches(item, Facts.load(item.facts))
    return np.unique(queries, return_counts=True)


def _histogram(item: Slice, tables: Tables, search: str) -> tuple[NDArray, NDArray]:
    """The cells (row << digit | value of the digit) that some matches fall into, and their numbers."""
    facts, state = Facts.load(item.facts), _load_search(search)
    pairs, queries = _matches(item, facts)
    active = state.row[queries] >= 0
    pairs, queries = pairs[active], queries[active]
    value = mix(facts.order(tables.seed)[pairs], hashes(tables.queries)[queries])
    if state.known:
        same = value >> (np.uint64(_HASH_BITS) - state.known) == state.prefix[queries]
        queries, value = queries[same], value[same]
    digit = (value << state.known) >> (np.uint64(_HASH_BITS) - state.digit)
    cells = (state.row[queries].astype(np.int64) << state.digit.astype(np.int64)) | digit.astype(np.int64)
    return np.unique(cells, return_counts=True)


def _decide(item: Slice, tables: Tables, limits: str) -> tuple[NDArray[np.uint8], NDArray, NDArray]:
    """New verdicts, and the (pair of the slice, query) of those that a query may keep as one of equals."""
    facts, known = Facts.load(item.facts), _load_limits(limits)
    pairs, queries = _matches(item, facts)
    value = mix(facts.order(tables.seed)[pairs], hashes(tables.queries)[queries])
    last, partly = known.last[queries], known.partly[queries]
    verdicts = item.verdicts.copy()
    verdicts[verdicts == KEPT] = _ABOVE
    verdicts[pairs[(value < last) | ((value == last) & ~partly)]] = KEPT
    equals = (value == last) & partly
    return verdicts, pairs[equals], queries[equals]


def _matches(item: Slice, facts: Facts) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(pair of the slice, query) of all pairs that are kept so far."""
    pairs = np.repeat(np.arange(len(item.verdicts)), np.diff(facts.starts))
    kept = item.verdicts[pairs] == KEPT
    return pairs[kept], facts.queries[kept]


def _save(uri: str, arrays: _Search | _Limits) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{field.name: getattr(arrays, field.name) for field in fields(arrays)})
    storage.write(uri, buffer.getvalue())


@functools.lru_cache(maxsize=1)
def _load_search(uri: str) -> _Search:
    with np.load(io.BytesIO(storage.read(uri)), allow_pickle=False) as arrays:
        return _Search(**arrays)


@functools.lru_cache(maxsize=1)
def _load_limits(uri: str) -> _Limits:
    with np.load(io.BytesIO(storage.read(uri)), allow_pickle=False) as arrays:
        return _Limits(**arrays)
