"""The rules on pairs that are too much alike, one after the other: captions, images, pictures, embeddings."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cliploom import storage
from cliploom.data.curation import hamming
from cliploom.data.curation.cosine import Embeddings
from cliploom.data.curation.facts import KEPT, RULE, Facts, Pass, Slice
from cliploom.data.curation.similar import ROW, Key, drop_similar
from cliploom.data.manifest import Manifest
from cliploom.errors import InputError
from cliploom.settings.curation import Curate


def check(settings: Curate) -> None:
    """Find out whether the rules can be applied.

    Raises:
        InputError: of embeddings and their threshold, one is set without the other, or there is no such file.
    """
    wanted = settings.duplicates
    if (wanted.embeddings is None) != (wanted.min_cosine is None):
        raise InputError("curate.duplicates.embeddings and curate.duplicates.min_cosine go together: set both or none")
    if wanted.embeddings is not None and not wanted.embeddings.endswith((".npy", ".parquet")):
        raise InputError(f"curate.duplicates.embeddings: {wanted.embeddings} is neither .npy nor .parquet")
    if wanted.embeddings is not None and not storage.exists(wanted.embeddings):
        raise InputError(f"curate.duplicates.embeddings: there is no file {wanted.embeddings}")


def drop_duplicates(over: Pass, settings: Curate, manifest: Manifest, verdicts: NDArray[np.uint8]) -> None:
    """Drop what is too much like a pair of a smaller hash, by each rule that is set.

    Args:
        over: makes a pass over all shards.
        verdicts: of all pairs, uint8 [pairs of the manifest]; is changed.

    Raises:
        InputError: the file of embeddings is not of this manifest.
    """
    wanted = settings.duplicates

    def rows(code: str) -> Iterator[NDArray]:
        task = functools.partial(_rows, code=code, seed=settings.seed)
        return (found for _, found in over("collect digests", task))

    for field, is_set in (("caption", wanted.captions), ("image", wanted.images)):
        if is_set:
            drop_similar(rows(field), _by_key, None, RULE[f"duplicate {field}"], verdicts)
    if wanted.phash_distance is not None:
        rule = RULE["near-duplicate image"]
        drop_similar(rows("phash"), _by_key, None, rule, verdicts)
        if wanted.phash_distance:
            tables = functools.partial(hamming.tables, distance=wanted.phash_distance)
            near = functools.partial(hamming.near, distance=wanted.phash_distance)
            drop_similar(rows("phash"), tables, near, rule, verdicts)
    if wanted.embeddings is not None and wanted.min_cosine is not None:
        with tempfile.TemporaryDirectory(prefix="cliploom-curate-") as folder:
            embeddings = Embeddings(wanted.embeddings, manifest, Path(folder))
            alike = functools.partial(embeddings.alike, threshold=wanted.min_cosine)
            planes = functools.partial(embeddings.tables, threshold=wanted.min_cosine, seed=settings.seed)
            drop_similar(rows("phash"), planes, alike, RULE["near-duplicate embedding"], verdicts)


def _rows(item: Slice, code: str, seed: int) -> NDArray:
    """The kept pairs of a shard as ROWs, whose key and code are those of a digest or of the perceptual hash."""
    facts = Facts.load(item.facts)
    kept = np.flatnonzero(item.verdicts == KEPT)
    rows = np.empty(len(kept), dtype=ROW)
    rows["order"] = facts.order(seed)[kept]
    rows["number"] = item.first + kept
    found = getattr(facts, code)[kept]
    rows["key"], rows["code"] = (found, found) if found.ndim == 1 else found.T
    return rows


def _by_key(_: int) -> list[Key]:
    return [lambda rows: np.asarray(rows["key"])]
