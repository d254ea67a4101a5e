"""A manifest for shards that exist, img2dataset's and DataComp's for example."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator

from cliploom import storage
from cliploom.config import Config, require
from cliploom.data import manifest
from cliploom.data.prepare import Result, write_quarantine
from cliploom.data.runner import Runner
from cliploom.data.shards import Shard, ShardIndex, index_shard
from cliploom.data.tars import Fault
from cliploom.errors import InputError, refused
from cliploom.progress import Progress
from cliploom.settings.data import Index


def make_index(config: Config, run: Runner) -> Result:
    """Make the manifest that `config.index` describes, from the shards' tar headers, by `run`.

    What is no pair goes to a quarantine file beside the manifest.

    Raises:
        InputError: there are no such shards, or there is no pair in them.
    """
    require(config, "index.shards")
    uris = _shards(config.index.shards or "")
    output = storage.absolute(config.index.output or storage.parent(uris[0]))
    storage.check(output, "index.output")
    faults: list[Fault] = []
    rows = _rows(config.index, uris, run, faults)
    first = next(rows, None)
    if first is None:
        raise InputError(f"index.shards: no image with a caption in {config.index.shards}")
    made = manifest.write(storage.join(output, manifest.NAME), itertools.chain([first], rows))
    write_quarantine(output, faults)
    return Result(made.uri, len(made.shards), made.samples, Counter(fault.cause for fault in faults))


def _rows(settings: Index, uris: list[str], run: Runner, faults: list[Fault]) -> Iterator[tuple[Shard, ShardIndex]]:
    """The manifest's rows, in order; what is no pair goes to `faults`."""
    task = functools.partial(index_shard, content_digest=settings.content_digest)
    with Progress("shard", len(uris)) as progress:
        for number, (_, (shard, index, its_faults)) in enumerate(run(task, uris), start=1):
            faults += its_faults
            progress.update(number)
            if shard.samples:
                yield shard, index


def _shards(source: str) -> list[str]:
    """URIs of the tars that a pattern names, or of all below a folder, in order."""
    source = storage.absolute(source)
    if source.endswith(".tar"):
        return storage.expand(source)
    with refused("index.shards"):
        uris = [file.uri for file in storage.files(source) if file.uri.endswith(".tar")]
    if not uris:
        raise InputError(f"index.shards: there are no .tar files below {source}")
    return uris
