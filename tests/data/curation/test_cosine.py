"""Near-duplicates by embeddings against a comparison of all with all."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairs
from cliploom.data import manifest as manifests
from cliploom.data.curation.cosine import Embeddings
from cliploom.data.curation.facts import KEPT
from cliploom.data.curation.similar import ROW, drop_similar
from cliploom.data.manifest import Manifest
from cliploom.errors import InputError

COUNT, WIDTH = 400, 24


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return manifests.load(pairs.write(tmp_path_factory.mktemp("shards"), shards=4, samples=COUNT // 4, size=8))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Families of embeddings at cosines of some 0.8 to 1 to each other."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((40, WIDTH))
    spread = random.uniform(0, 0.5, (COUNT, 1))
    noise = random.standard_normal((COUNT, WIDTH))
    return (centres[random.integers(0, 40, COUNT)] + spread * noise).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.9, 0.97, 1.0])
def test_one_of_each_similar_two_is_dropped(
    manifest: Manifest, vectors: np.ndarray, tmp_path: Path, threshold: float
) -> None:
    np.save(tmp_path / "e.npy", vectors * 3)
    embeddings = Embeddings(str(tmp_path / "e.npy"), manifest, tmp_path)
    rows = np.zeros(COUNT, dtype=ROW)
    rows["number"] = np.arange(COUNT)
    rows["order"] = np.random.default_rng(1).permutation(COUNT)
    verdicts = np.full(COUNT, KEPT, dtype=np.uint8)
    near = functools.partial(embeddings.alike, threshold=threshold)
    tables = functools.partial(embeddings.tables, threshold=threshold, seed=0)
    drop_similar(iter([rows]), tables, near, 9, verdicts)

    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similar = unit @ unit.T >= threshold
    expected = (similar & (rows["order"][None, :] < rows["order"][:, None])).any(axis=1)
    dropped = verdicts != KEPT
    assert not (dropped & ~expected).any()
    assert dropped.sum() >= 0.99 * expected.sum()


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("count", [100, 10**9])
def test_similar_embeddings_share_a_key_as_often_as_promised(
    manifest: Manifest, tmp_path: Path, threshold: float, count: int
) -> None:
    random = np.random.default_rng(5)
    ones = random.standard_normal((COUNT // 2, WIDTH))
    ones /= np.linalg.norm(ones, axis=1, keepdims=True)
    aside = random.standard_normal((COUNT // 2, WIDTH))
    aside -= ones * (ones * aside).sum(1, keepdims=True)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    others = threshold * ones + np.sqrt(1 - threshold**2) * aside
    np.save(tmp_path / "e.npy", np.concatenate([ones, others]))
    embeddings = Embeddings(str(tmp_path / "e.npy"), manifest, tmp_path)
    rows = np.zeros(COUNT, dtype=ROW)
    rows["number"] = np.arange(COUNT)
    one, other = rows[: COUNT // 2], rows[COUNT // 2 :]
    assert embeddings.alike(one, other, threshold - 1e-9).all()
    assert not embeddings.alike(one, other, threshold + 1e-9).any()
    together = [table(one) == table(other) for table in embeddings.tables(count, threshold, seed=0)]
    assert np.any(together, axis=0).mean() >= 0.97  # 0.99 but for the spread of 200 pairs


def test_parquet_and_npy_are_the_same(manifest: Manifest, vectors: np.ndarray, tmp_path: Path) -> None:
    keys = [key for number in range(len(manifest.shards)) for key in manifest.index(number).keys]
    np.save(tmp_path / "e.npy", vectors)
    table = pa.table({"key": keys, "embedding": list(vectors)})
    pq.write_table(table, tmp_path / "e.parquet", row_group_size=70)
    one, other = (Embeddings(str(tmp_path / name), manifest, tmp_path) for name in ("e.npy", "e.parquet"))
    numbers = np.array([399, 0, 77])
    assert one.unit(numbers).tolist() == other.unit(numbers).tolist()
    assert np.linalg.norm(one.unit(numbers), axis=1) == pytest.approx(1)

    moved = table.take([1, 0, *range(2, COUNT)])
    pq.write_table(moved, tmp_path / "moved.parquet")
    with pytest.raises(InputError, match=rf"moved\.parquet has {keys[1]} where the manifest has {keys[0]}"):
        Embeddings(str(tmp_path / "moved.parquet"), manifest, tmp_path)
    pq.write_table(table.rename_columns(["key", "vector"]), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"no column embedding, but key, vector"):
        Embeddings(str(tmp_path / "other.parquet"), manifest, tmp_path)
    pq.write_table(table.slice(1), tmp_path / "short.parquet")
    with pytest.raises(InputError, match=rf"has {COUNT - 1} rows, the manifest {COUNT} pairs"):
        Embeddings(str(tmp_path / "short.parquet"), manifest, tmp_path)
    ragged = pa.table({"embedding": [[1.0, 2.0]] * (COUNT - 1) + [[1.0]]})
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    with pytest.raises(InputError, match=r"ragged\.parquet can't be read"):
        Embeddings(str(tmp_path / "ragged.parquet"), manifest, tmp_path)


def test_files_that_are_no_embeddings_of_the_manifest(manifest: Manifest, vectors: np.ndarray, tmp_path: Path) -> None:
    for name, array in {
        "few": vectors[1:],
        "flat": vectors[:, 0],
        "whole": np.ones((COUNT, 3), dtype=np.int64),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(InputError, match=rf"{name}\.npy has .*, the manifest {COUNT} pairs"):
            Embeddings(str(tmp_path / f"{name}.npy"), manifest, tmp_path)
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(InputError, match=r"torn\.npy can't be read"):
        Embeddings(str(tmp_path / "torn.npy"), manifest, tmp_path)
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"object\.npy can't be read"):
        Embeddings(str(tmp_path / "object.npy"), manifest, tmp_path)
    zero = vectors.copy()
    zero[5] = 0
    np.save(tmp_path / "zero.npy", zero)
    with pytest.raises(InputError, match=r"row 5 of .*zero\.npy is zero or not finite"):
        Embeddings(str(tmp_path / "zero.npy"), manifest, tmp_path).unit(np.arange(9))
