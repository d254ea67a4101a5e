"""From raw pairs to shards with a manifest, or to evaluation sets, shard by shard in Ray tasks.

Which rows make which shard is a function of the source alone, and a shard's bytes of its rows and the settings. Beside
the shards, `.prepare/` keeps a record of each finished one; so a run that was killed goes on where it was, and ends
with the same bytes as one that was not.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from cliploom import storage
from cliploom.config import Config, require
from cliploom.data import lists, manifest, packing
from cliploom.data.faults import is_text
from cliploom.data.runner import Runner
from cliploom.data.sources import Row, rows
from cliploom.data.tars import Fault
from cliploom.errors import InputError
from cliploom.progress import Progress
from cliploom.settings.data import Prepare

QUARANTINE = "quarantine.jsonl"
_RECORDS = ".prepare"
_COUNT = "nshards.txt"
_TEMPLATES = ["a photo of a {c}."]


class Result(NamedTuple):
    """What `prepare` made."""

    uri: str  # of the manifest, or of the evaluation set's folder
    shards: int
    samples: int
    faults: Counter[str]  # what became no sample, by cause

    def left_out(self) -> str:
        """The faults in words."""
        return ", ".join(f"{count} x {cause}" for cause, count in self.faults.most_common()) or "nothing"


def prepare(config: Config, run: Runner) -> Result:
    """Make what `config.prepare` describes by `run`, shard by shard.

    Raises:
        InputError: the source is not there, or nothing in it can be used.
    """
    require(config, "prepare.source", "prepare.output")
    settings = config.prepare
    output = storage.absolute(settings.output or "")
    storage.check(output, "prepare.output")
    folder = output if settings.layout == "pairs" else storage.join(output, settings.split)
    classes = _classes(settings, output) if settings.layout == "classification" else []
    faults: list[Fault] = []
    records: list[str] = []
    samples = 0
    with Progress(f"prepare {settings.source}", None, "samples") as progress:
        for plan, made in run(packing.make, _plans(settings, folder, classes, faults)):
            records.append(plan.record)
            faults += made.faults
            samples += made.samples
            progress.add(made.samples)
    _remove_others(folder, records)
    write_quarantine(folder, faults)
    if not samples:
        raise InputError(f"prepare.source: nothing in {settings.source} can be used: see {folder}/{QUARANTINE}")
    if settings.layout == "pairs":
        entries = (packing.read_record(record).entry for record in records)
        output = manifest.write(storage.join(output, manifest.NAME), (entry for entry in entries if entry)).uri
    else:
        _describe(settings, output, folder, classes, len(records))
    return Result(output, len(records), samples, Counter(fault.cause for fault in faults))


def write_quarantine(folder: str, faults: list[Fault]) -> None:
    """Write what became no sample, and why, as JSON lines into `folder`."""
    lines = (json.dumps(fault._asdict()) + "\n" for fault in sorted(faults))
    storage.write(storage.join(folder, QUARANTINE), "".join(lines).encode())


def _plans(settings: Prepare, folder: str, classes: list[str], faults: list[Fault]) -> Iterator[packing.Plan]:
    """The shards in order; what the source itself finds unusable goes to `faults`."""
    numbers = {name: number for number, name in enumerate(classes)}
    listing = storage.join(folder, manifest.NAME if settings.layout == "pairs" else _COUNT)
    shard: list[Row] = []
    written = 0
    for row in itertools.chain(rows(settings), [None]):
        if isinstance(row, Fault):
            faults.append(row)
        elif row is not None:
            shard.append(row)
        if shard and (row is None or len(shard) == settings.shard_samples):
            name = f"{written:05d}" if settings.layout == "pairs" else str(written)
            uri, record = storage.join(folder, f"{name}.tar"), storage.join(folder, _RECORDS, f"{written:05d}.json")
            yield packing.Plan(uri, record, listing, tuple(shard), settings, numbers)
            shard = []
            written += 1


def _remove_others(folder: str, records: list[str]) -> None:
    """Remove the shards and records that an earlier, longer source left."""
    kept = set(records)
    for file in storage.files(storage.join(folder, _RECORDS)):
        if file.uri not in kept:
            number = int(storage.name(file.uri).removesuffix(".json"))
            storage.delete(storage.join(folder, f"{number:05d}.tar"))
            storage.delete(storage.join(folder, f"{number}.tar"))
            storage.delete(file.uri)


def _classes(settings: Prepare, output: str) -> list[str]:
    """The class names in their order: of the file, else the source's, sorted."""
    if settings.classnames:
        return lists.read(settings.classnames, "prepare.classnames")
    found = {row.label for row in rows(settings) if isinstance(row, Row) and row.label is not None}
    classes = sorted(filter(is_text, found))
    there = storage.join(output, "classnames.txt")
    if storage.exists(there) and lists.read(there, "prepare.output") != classes:  # of another split
        raise InputError(
            f"prepare.classnames: {there} has other names than the source; set it to that file, or delete it"
        )
    return classes


def _describe(settings: Prepare, output: str, folder: str, classes: list[str], shards: int) -> None:
    """Write the files that tell what an evaluation set is; nshards.txt last: with it the split is there."""
    templates = lists.read(settings.templates, "prepare.templates") if settings.templates else _TEMPLATES
    texts: dict[str, list[str]] = {"dataset_type.txt": [settings.layout]}
    if settings.layout == "classification":
        texts |= {"classnames.txt": classes, "zeroshot_classification_templates.txt": templates}
    for name, lines in texts.items():
        storage.write(storage.join(output, name), "".join(f"{line}\n" for line in lines).encode())
    storage.write(storage.join(folder, _COUNT), str(shards).encode())
