"""What a run trains on: one manifest or several, mixed by weight, without the samples of a deny-list."""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cliploom import storage
from cliploom.data import lists
from cliploom.data import manifest as manifests
from cliploom.data.manifest import Manifest
from cliploom.data.plan import Part
from cliploom.data.shards import Shard, ShardIndex
from cliploom.errors import InputError, refused
from cliploom.settings.data import Data, Mixed

_KEY_COLUMN = "key"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Names a mixture so that other processes can load it: small and hashable, with the deny-list looked up already."""

    parts: tuple[tuple[str, float], ...]  # URI of a manifest, weight
    denied: bytes  # zlib of int64 [n, 2]: number of the shard, counted through all parts, and of the sample in it


@dataclass(frozen=True)
class Mixture:
    """Manifests with their weights, each less what is denied in it; the shards are counted through all of them."""

    manifests: tuple[Manifest, ...]
    weights: tuple[float, ...]

    @property
    def uri(self) -> str:
        """Where the manifests are, in words."""
        return " + ".join(manifest.uri for manifest in self.manifests)

    @functools.cached_property
    def shards(self) -> list[Shard]:
        """All parts' shards."""
        return [shard for manifest in self.manifests for shard in manifest.shards]

    @functools.cached_property
    def denied(self) -> dict[int, list[int]]:
        """By shard: which of its samples are left out."""
        firsts = zip(self._firsts, self.manifests, strict=False)
        return {first + shard: denied for first, part in firsts for shard, denied in part.denied.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of all that the samples and their order depend on, but for seed and window."""
        if len(self.manifests) == 1 and self.weights == (1.0,) and not self.denied:
            return self.manifests[0].fingerprint
        digest = hashlib.sha256()
        for manifest, weight in zip(self.manifests, self.weights, strict=True):
            digest.update(f"{manifest.fingerprint}\t{weight!r}\n".encode())
        digest.update(_rows(self.denied).tobytes())
        return digest.hexdigest()

    @property
    def recipe(self) -> Recipe:
        """What `load` makes the mixture of again."""
        uris = (manifest.uri for manifest in self.manifests)
        return Recipe(tuple(zip(uris, self.weights, strict=True)), zlib.compress(_rows(self.denied).tobytes()))

    def index(self, number: int) -> ShardIndex:
        """The index of the shard `number`."""
        part = bisect.bisect_right(self._firsts, number) - 1
        return self.manifests[part].index(number - self._firsts[part])

    def check(self) -> None:
        """Find out whether all shards are there, in the size that the manifests state.

        Raises:
            InputError: one is not; names it.
        """
        for manifest in self.manifests:
            manifest.check()

    def parts(self) -> list[Part]:
        """What the plan orders.

        Raises:
            InputError: an epoch would have no sample of one.
        """
        made = []
        for manifest, weight in zip(self.manifests, self.weights, strict=True):
            left = manifest.samples - sum(len(denied) for denied in manifest.denied.values())
            if left == 0:
                raise InputError(f"{manifest.uri} holds no samples{', all are denied' if manifest.denied else ''}")
            if round(weight * left) == 0:
                raise InputError(f"data.manifest: weight {weight:g} of {manifest.uri} is less than one of its samples")
            made.append(Part([shard.samples for shard in manifest.shards], weight, manifest.denied))
        return made

    @functools.cached_property
    def _firsts(self) -> list[int]:
        return [0, *itertools.accumulate(len(manifest.shards) for manifest in self.manifests)]


def choose(data: Data) -> Mixture:
    """The mixture that the settings describe; a deny-list is looked up in all manifests, whose keys are read for it.

    Raises:
        InputError: a manifest or the deny-list is not there, or is none.
    """
    wanted = data.manifest if isinstance(data.manifest, list) else [Mixed(uri=data.manifest or "")]
    found = tuple(manifests.load(part.uri) for part in wanted)
    if data.deny:
        entries = _entries(data.deny)
        met: set[str] = set()
        found = tuple(replace(manifest, denied=_by_shard(_named(manifest, entries, met))) for manifest in found)
        count = sum(len(denied) for manifest in found for denied in manifest.denied.values())
        said = "data.deny: %d entries of %s leave out %d samples, %d entries name none"
        level = logging.INFO if len(met) == len(entries) else logging.WARNING
        _log.log(level, said, len(entries), data.deny, count, len(entries) - len(met))
    return Mixture(found, tuple(part.weight for part in wanted))


def load(recipe: Recipe) -> Mixture:
    """The mixture that a recipe names.

    Raises:
        InputError: a manifest is not there, or is none.
    """
    found = tuple(manifests.load(uri) for uri, _ in recipe.parts)
    firsts = itertools.accumulate((len(manifest.shards) for manifest in found), initial=0)
    denied = np.frombuffer(zlib.decompress(recipe.denied), dtype="<i8").reshape(-1, 2)
    parts = []
    for manifest, first in zip(found, firsts, strict=False):
        own = denied[(denied[:, 0] >= first) & (denied[:, 0] < first + len(manifest.shards))]
        parts.append(replace(manifest, denied=_by_shard((shard - first, index) for shard, index in own.tolist())))
    return Mixture(tuple(parts), tuple(weight for _, weight in recipe.parts))


def _entries(uri: str) -> set[str]:
    """What a deny-list names: a line each of a text file, or the column `key` of a parquet file."""
    try:
        with refused("data.deny"):
            if not uri.endswith(".parquet"):
                return {line.strip() for line in lists.read(uri, "data.deny") if line.strip()}
            storage.size(uri)  # answers in words where pyarrow has an error code
            system, path = storage.filesystem(uri)
            with pq.ParquetFile(path, filesystem=system) as file:
                if _KEY_COLUMN not in file.schema_arrow.names:
                    raise InputError(f"data.deny: {uri} has no column {_KEY_COLUMN}")
                return set(file.read([_KEY_COLUMN])[_KEY_COLUMN].cast(pa.string()).drop_null().to_pylist())
    except FileNotFoundError:
        raise InputError(f"data.deny: there is no file {uri}") from None
    except (UnicodeDecodeError, pa.ArrowException):
        raise InputError(f"data.deny: {uri} is no parquet file with keys of text") from None


def _named(manifest: Manifest, entries: set[str], met: set[str]) -> Iterator[tuple[int, int]]:
    """(shard, index) of the samples that entries name, as KEY or as SHARD#KEY; these entries are added to `met`."""
    # Names of shards and keys may have a # themselves, so that each may be the one between the two.
    shards = {entry[:at] for entry in entries for at, letter in enumerate(entry) if letter == "#"}
    folder = storage.parent(manifest.uri)
    for number, (shard, keys) in enumerate(zip(manifest.shards, manifest.keys(), strict=True)):
        names = {shard.uri, manifests.relative(folder, shard.uri)} & shards
        prefixes = ["", *(f"{name}#" for name in names)]
        for index, key in enumerate(keys):
            if hits := [prefix + key for prefix in prefixes if prefix + key in entries]:
                met.update(hits)
                yield number, index


def _by_shard(rows: Iterator[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for shard, index in rows:
        found.setdefault(shard, []).append(index)
    return found


def _rows(denied: dict[int, list[int]]) -> np.ndarray:
    rows = [(shard, index) for shard, indices in denied.items() for index in indices]
    return np.array(rows, dtype="<i8").reshape(-1, 2)
