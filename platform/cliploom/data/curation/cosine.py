"""Embeddings in a file of the user's, and keys that find those with a cosine above a threshold."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliploom import storage
from cliploom.data.curation.similar import Key
from cliploom.data.manifest import Manifest
from cliploom.errors import InputError

_RECALL = 0.99  # of pairs at the threshold; those above it are found more surely
_MOST_TABLES, _MOST_BITS = 512, 48
_AT_ONCE = 1 << 14  # embeddings in memory


class Embeddings:
    """The embeddings of a manifest's pairs, row i of the pair i, on this machine's disk.

    Args:
        uri: an .npy file of floats [pairs, width], or a parquet file with a column `embedding` of lists of floats;
            where it has a column `key`, that must be the keys of the manifest.
        folder: for a local copy, where one is needed.

    Raises:
        InputError: the file is not of this manifest.
    """

    def __init__(self, uri: str, manifest: Manifest, folder: Path) -> None:
        self._uri = uri
        try:
            self._array = _parquet(uri, manifest, folder) if uri.endswith(".parquet") else _npy(uri, folder)
        except (pa.ArrowException, ValueError) as error:
            raise _fault(f"{uri} can't be read: {' '.join(str(error).split())}") from None
        if self._array.ndim != 2 or self._array.dtype.kind != "f" or len(self._array) != manifest.samples:
            shape = " x ".join(map(str, self._array.shape))
            raise _fault(f"{uri} has {self._array.dtype} {shape}, the manifest {manifest.samples} pairs")

    def unit(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The embeddings of pairs, scaled to length 1: float64 [n, width].

        Raises:
            InputError: one is zero or not finite.
        """
        rows = self._array[numbers].astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1)
        bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if len(bad):
            raise _fault(f"row {numbers[bad[0]]} of {self._uri} is zero or not finite")
        return np.asarray(rows / lengths[:, None])

    def alike(self, one: NDArray, other: NDArray, threshold: float) -> NDArray[np.bool_]:
        """Whether the cosine of each of some rows with another row is at least `threshold`."""
        found = [np.zeros(0, dtype=bool)]
        for start in range(0, len(one), _AT_ONCE):
            a, b = (self.unit(rows["number"][start : start + _AT_ONCE]) for rows in (one, other))
            found.append(np.einsum("ij,ij->i", a, b) >= threshold)
        return np.concatenate(found)

    def tables(self, count: int, threshold: float, seed: int) -> list[Key]:
        """Key functions that give two of `count` embeddings with this cosine a common key with probability 0.99.

        A key is the sides of random hyperplanes on which an embedding lies (Charikar 2002, "Similarity estimation
        techniques from rounding algorithms"): they part two embeddings with probability angle / pi each.
        """
        together = 1 - math.acos(min(threshold, 1.0)) / math.pi
        bits = min(_choices(together), key=lambda bits: _cost(count, together, bits))
        return [functools.partial(self._key, seed=(seed, table), bits=bits) for table in range(_needed(together, bits))]

    def _key(self, rows: NDArray, seed: tuple[int, int], bits: int) -> NDArray[np.uint64]:
        planes = np.random.Generator(np.random.PCG64(seed)).standard_normal((self._array.shape[1], bits))
        keys = np.empty(len(rows), dtype=np.uint64)
        weights = np.uint64(1) << np.arange(bits, dtype=np.uint64)
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            keys[part] = ((self.unit(rows["number"][part]) @ planes) > 0) @ weights
        return keys


def _needed(together: float, bits: int) -> int:
    """Tables of keys of so many bits that reach the recall, where a bit is equal with probability `together`."""
    missed = 1 - together**bits
    return 1 if missed <= 1 - _RECALL else math.ceil(math.log(1 - _RECALL) / math.log(missed))


def _choices(together: float) -> list[int]:
    return [bits for bits in range(1, _MOST_BITS + 1) if _needed(together, bits) <= _MOST_TABLES]


def _cost(count: int, together: float, bits: int) -> float:
    """Embeddings to hash and pairs to compare, were they evenly spread."""
    return _needed(together, bits) * (count + count * count / 2 ** (bits + 1))


def _npy(uri: str, folder: Path) -> NDArray:
    path = storage.local(uri) if not storage.is_s3(uri) else folder / "embeddings.npy"
    if storage.is_s3(uri):
        storage.download(uri, path)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _parquet(uri: str, manifest: Manifest, folder: Path) -> NDArray:
    system, path = storage.filesystem(uri)
    with pq.ParquetFile(path, filesystem=system) as file:
        names = file.schema_arrow.names
        if "embedding" not in names:
            raise _fault(f"{uri} has no column embedding, but {', '.join(names)}")
        if file.metadata.num_rows != manifest.samples:
            raise _fault(f"{uri} has {file.metadata.num_rows} rows, the manifest {manifest.samples} pairs")
        columns = [name for name in ("key", "embedding") if name in names]
        return _copy(file.iter_batches(_AT_ONCE, columns=columns), uri, manifest, folder / "embeddings")


def _copy(batches: Iterable[pa.RecordBatch], uri: str, manifest: Manifest, path: Path) -> NDArray:
    keys = (key for number in range(len(manifest.shards)) for key in manifest.index(number).keys)
    width = 0
    with path.open("wb") as file:
        for batch in batches:
            if "key" in batch.schema.names:
                for found, key in zip(batch.column("key").to_pylist(), keys, strict=False):
                    if found != key:
                        raise _fault(f"{uri} has {found} where the manifest has {key}: it is not in its order")
            rows = np.stack(batch.column("embedding").to_numpy(zero_copy_only=False)).astype(np.float32)
            if width and rows.shape[1] != width:
                raise ValueError(f"embeddings of {width} and of {rows.shape[1]} numbers")
            width = rows.shape[1]
            rows.tofile(file)
    return np.memmap(path, dtype=np.float32, mode="r", shape=(manifest.samples, width))


def _fault(words: str) -> InputError:
    return InputError(f"curate.duplicates.embeddings: {words}")
