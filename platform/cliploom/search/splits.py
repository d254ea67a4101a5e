"""Which shards trials train on, and which they are measured on: manifests in the search's folder."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cliploom import storage
from cliploom.config import Config
from cliploom.data import manifest as manifests
from cliploom.data.manifest import Manifest
from cliploom.errors import InputError


class Split(NamedTuple):
    """URIs of manifests."""

    training: dict[float, str]  # by share of the data
    held_out: str


def split(config: Config, folder: str, shares: list[float]) -> Split:
    """Make the manifests that a search's trials read; those that hold the same shards already stay as they are.

    Args:
        config: of the search.
        folder: URI of the search's.
        shares: of the shards that trials train on; a smaller share's are among a larger one's.

    Raises:
        InputError: nothing is held out, or too little is left.
    """
    tune, data = config.tune, config.data
    if (tune.held_out is None) == (tune.held_out_shards is None):
        raise InputError("trials are compared on pairs that none trains on: give tune.held_out or tune.held_out_shards")
    if tune.held_out and shares == [1.0]:
        return Split({1.0: ""}, storage.absolute(tune.held_out))
    if not isinstance(data.manifest, str):
        raise InputError("tune.held_out_shards and tune.scale.data need one data.manifest: give tune.held_out instead")
    whole = manifests.load(data.manifest)
    order = np.random.default_rng(config.tune.seed).permutation(len(whole.shards)).tolist()
    kept = order[tune.held_out_shards or 0 :]
    if not kept:
        raise InputError(
            f"tune.held_out_shards={tune.held_out_shards}, but {whole.uri} has {len(whole.shards)}: lower it"
        )
    held_out = tune.held_out or _subset(whole, order[: tune.held_out_shards], folder, "held-out")
    training = {
        share: _subset(whole, kept[: max(1, math.ceil(share * len(kept)))], folder, f"training-{share:g}")
        for share in shares
    }
    return Split(training, storage.absolute(held_out))


def _subset(whole: Manifest, numbers: list[int], folder: str, name: str) -> str:
    """URI of a manifest with some of the shards, in their order."""
    uri = storage.join(folder, "data", f"{name}.parquet")
    numbers = sorted(numbers)
    shards = [whole.shards[number] for number in numbers]
    if not storage.exists(uri) or manifests.load(uri).shards != shards:
        manifests.write(uri, zip(shards, map(whole.index, numbers), strict=True))
    return uri
