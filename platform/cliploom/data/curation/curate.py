"""The job: from a manifest to shards, a manifest and a report of the pairs that stay.

Everything is a function of the manifest and the settings, and each file is written whole or not at all. Below the
output, `.curate/` keeps what was found out about each shard, and a record of each shard that is written; so a run that
was killed goes on where it was, and ends with the same bytes as one that was not. Deciding on the facts is quick, and
is done anew. A run with other limits or another seed finds the facts there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cliploom import storage
from cliploom.config import Config, require
from cliploom.data import lists, packing
from cliploom.data import manifest as manifests
from cliploom.data.curation import duplicates, filters, reference, report, writing
from cliploom.data.curation.balance import Tables, balance, count
from cliploom.data.curation.facts import KEPT, Pass, Slice
from cliploom.data.curation.matching import Queries
from cliploom.data.curation.scan import Scan, scan
from cliploom.data.manifest import Manifest
from cliploom.data.runner import Runner
from cliploom.errors import InputError
from cliploom.progress import Progress
from cliploom.settings.curation import Curate, CurateQueries

_FORMAT = 1  # of facts; another number makes them anew
_FOLDER, _REFERENCE = ".curate", "reference"


class Result(NamedTuple):
    """What `curate` made."""

    uri: str | None  # of the manifest; a dry run makes none
    report: dict[str, Any]


class _Places(NamedTuple):
    """URIs below the output."""

    output: str
    facts: str  # of the facts of these pairs by these rules on single pairs
    records: str
    attempt: str  # of what tasks are handed; gone in the end


class _Verdicts(NamedTuple):
    """Which rule dropped each pair, or none."""

    all: NDArray[np.uint8]  # [pairs of the manifest], number in RULES
    firsts: list[int]  # [shards + 1], where each shard's begin

    def of(self, number: int) -> NDArray[np.uint8]:
        """Those of a shard's pairs, as a view."""
        return self.all[self.firsts[number] : self.firsts[number + 1]]


def curate(config: Config, run: Runner) -> Result:
    """Make what `config.curate` describes by `run`, shard by shard.

    Raises:
        InputError: a file that the settings name is not there, settings contradict each other, or nothing stays.
    """
    require(config, "curate.manifest", "curate.output")
    settings = config.curate
    filters.check(settings.filters)
    duplicates.check(settings)
    source = manifests.load(settings.manifest or "")
    source.check()
    output = storage.absolute(settings.output or "")
    if output in {storage.parent(source.uri), *(storage.parent(shard.uri) for shard in source.shards)}:
        raise InputError(f"curate.output: {output} holds the pairs to choose from: name another folder")
    storage.check(output, "curate.output")
    attempt = storage.join(output, _FOLDER, f"attempt-{uuid.uuid4().hex}")
    try:
        queries = _queries(settings, output, attempt, run)
        name = _fingerprint(settings, source, queries)
        places = _Places(output, storage.join(output, _FOLDER, name), storage.join(output, _FOLDER, "shards"), attempt)
        return _curate(settings, source, queries, places, run)
    finally:
        storage.delete(attempt)


def _curate(settings: Curate, source: Manifest, queries: Queries | None, places: _Places, run: Runner) -> Result:
    saved = storage.join(places.facts, "queries.txt")
    if queries:
        queries.save(saved)
    before = after = np.zeros(0, dtype=np.int64)
    with _verdicts(source) as verdicts:
        _scan(settings, source, saved if queries else None, places, run, verdicts)
        over = _passes(source, places, run, verdicts)
        duplicates.drop_duplicates(over, settings, source, verdicts.all)
        if queries:
            tables = Tables(saved, places.attempt, settings.seed)
            before = balance(over, tables, settings.per_query, verdicts.all)
            after = count(over, len(queries))
        made = report.describe(settings, source, verdicts.all, before, after)
        if not made["kept"]:
            raise InputError(f"curate: none of {source.uri}'s {source.samples} pairs stays: {_causes(made)}")
        uri = None if settings.dry_run else _write(source, places, verdicts, run)
    texts = queries.texts if queries else []
    report.write(places.output, made, texts, before, after, settings.dry_run)
    return Result(uri, made)


def _queries(settings: Curate, output: str, attempt: str, run: Runner) -> Queries | None:
    """All queries; None where the settings name no source of any."""
    wanted = settings.queries
    if not wanted.lists and wanted.reference is None:
        return None
    lines = itertools.chain.from_iterable(lists.read(uri, "curate.queries.lists") for uri in wanted.lists)
    known = _of_reference(wanted, output, attempt, run) if wanted.reference is not None else []
    queries = Queries.of(itertools.chain(lines, known))
    if not len(queries):
        raise InputError(f"curate.queries.lists: there is no query in {', '.join(wanted.lists)}")
    return queries


def _of_reference(wanted: CurateQueries, output: str, attempt: str, run: Runner) -> list[str]:
    """The queries of the reference text; they are kept, since counting a large text takes its time."""
    made_by = [wanted.reference, reference.size(wanted), wanted.min_count, wanted.bigram_pmi]
    digest = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()
    place = storage.join(output, _FOLDER, _REFERENCE, f"{digest[:16]}.txt")
    if not storage.exists(place):
        Queries.of(reference.queries(wanted, attempt, run)).save(place)
    return Queries.load(place).texts


def _fingerprint(settings: Curate, source: Manifest, queries: Queries | None) -> str:
    """A name for the facts: of all that they depend on."""
    made_by = [settings.filters.model_dump(mode="json"), settings.duplicates.phash_distance is not None]
    content = [_FORMAT, source.fingerprint, made_by, queries.digest if queries else None]
    return f"facts-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"


def _scan(
    settings: Curate, source: Manifest, queries: str | None, places: _Places, run: Runner, verdicts: _Verdicts
) -> None:
    """Have all facts found, and remove those of other pairs and rules."""
    phash = settings.duplicates.phash_distance is not None
    items = (
        Scan(shard, source.index(number), _facts(places, number), settings.filters, phash, queries)
        for number, shard in enumerate(source.shards)
    )
    home = storage.join(places.output, _FOLDER)
    _remove(home, keep={places.facts, places.records, places.attempt, storage.join(home, _REFERENCE)})
    with Progress("look at pairs of shard", len(source.shards)) as progress:
        for number, (_, rules) in enumerate(run(scan, items)):
            verdicts.of(number)[:] = rules
            progress.update(number + 1)


def _passes(source: Manifest, places: _Places, run: Runner, verdicts: _Verdicts) -> Pass:
    shards = range(len(source.shards))

    def over(name: str, function: Callable[[Slice], Any]) -> Iterator[tuple[Slice, Any]]:
        slices = (Slice(_facts(places, n), verdicts.firsts[n], np.array(verdicts.of(n))) for n in shards)
        with Progress(f"{name}: shard", len(shards)) as progress:
            for number, done in enumerate(run(function, slices), start=1):
                yield done
                progress.update(number)

    return over


def _write(source: Manifest, places: _Places, verdicts: _Verdicts, run: Runner) -> str:
    """Write the shards, then their manifest; returns its URI."""
    manifest = storage.join(places.output, manifests.NAME)

    def selections() -> Iterator[writing.Selection]:
        for number, shard in enumerate(source.shards):
            kept = np.flatnonzero(verdicts.of(number) == KEPT)
            if len(kept):
                uri = storage.join(places.output, f"{number:05d}.tar")
                record = storage.join(places.records, f"{number:05d}.json")
                yield writing.Selection(shard, source.index(number), kept, uri, record, manifest)

    records: list[str] = []
    with Progress("write shard", len(source.shards)) as progress:
        for item, _ in run(writing.write, selections()):
            records.append(item.record)
            progress.update(int(storage.name(item.uri).removesuffix(".tar")) + 1)
    _remove_others(places, records)
    entries = (packing.read_record(record).entry for record in records)
    return manifests.write(manifest, (entry for entry in entries if entry)).uri


def _remove_others(places: _Places, records: list[str]) -> None:
    """Remove the shards and records that an earlier run with other settings left."""
    kept = set(records)
    for file in storage.files(places.records):
        if file.uri not in kept:
            storage.delete(storage.join(places.output, storage.name(file.uri).replace(".json", ".tar")))
            storage.delete(file.uri)


def _remove(folder: str, keep: set[str]) -> None:
    """Remove the folders in `folder`, but for some."""
    inside = {file.uri.removeprefix(f"{folder}/").partition("/")[0] for file in storage.files(folder)}
    for uri in {storage.join(folder, name) for name in inside} - keep:
        storage.delete(uri)


def _facts(places: _Places, number: int) -> str:
    return storage.join(places.facts, f"{number:05d}.npz")


def _causes(made: dict[str, Any]) -> str:
    return ", ".join(f"{count} x {rule}" for rule, count in made["dropped"].items())


@contextmanager
def _verdicts(source: Manifest) -> Iterator[_Verdicts]:
    """A number in RULES for each pair, on this machine's disk."""
    firsts = np.cumsum([0, *(shard.samples for shard in source.shards)]).tolist()
    with tempfile.TemporaryDirectory(prefix="cliploom-curate-") as folder:
        numbers = np.memmap(Path(folder, "verdicts"), dtype=np.uint8, mode="w+", shape=(source.samples,))
        yield _Verdicts(numbers, firsts)
