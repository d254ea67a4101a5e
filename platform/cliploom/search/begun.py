"""What decides a search's trials: written down when the first begins, and the same whenever the search goes on."""

from __future__ import annotations

import functools
import json
import operator
from typing import Any

from cliploom import storage
from cliploom.config import Config, check_same, keys
from cliploom.data import mixture as mixtures
from cliploom.search.records import Records
from cliploom.settings.data import Data

_SECTIONS = ("model.", "objective.", "tune.")
_FREE = {  # of these: what adds trials, places them, or reads the findings
    *("tune.trials", "tune.concurrent", "tune.retries", "tune.carry"),
    *("tune.scale.seeds", "tune.scale.for_flops", "tune.scale.for_gpu_hours"),
}
_BESIDE = {  # of the other sections: what a trial's loss depends on
    *("data.vocabulary", "data.window_shards", "data.crop_scale"),
    *("train.samples", "train.epochs", "train.global_batch_size", "train.norm_batch_size", "train.seed"),
    *("train.learning_rate", "train.warmup_samples", "train.weight_decay", "train.layer_decay", "train.lock"),
    *("train.beta1", "train.beta2", "train.epsilon", "train.max_gradient_norm", "train.precision"),
}


def check_goes_on(config: Config, records: Records) -> None:
    """Check that trials that are there already were made by these settings; where there are none, write these down.

    Raises:
        InputError: they were made by others; names the first.
    """
    place, now = storage.join(records.folder, "begun.json"), _deciding(config)
    if records.read(0) is None or not storage.exists(place):  # until a trial begins, a dry run may try other settings
        storage.write(place, json.dumps(now, indent=1).encode())
    else:
        check_same(f"search {config.run.name}", json.loads(storage.read(place)), now)


def _deciding(config: Config) -> dict[str, Any]:
    """By dotted key the values that decide trials; manifests by what they hold."""
    tree, held_out = config.model_dump(mode="json"), config.tune.held_out
    wanted = [key for key, *_ in keys() if key in _BESIDE or (key.startswith(_SECTIONS) and key not in _FREE)]
    found: dict[str, Any] = {key: functools.reduce(operator.getitem, key.split("."), tree) for key in wanted}
    found["data.manifest"] = mixtures.choose(config.data).fingerprint
    found["tune.held_out"] = mixtures.choose(Data(manifest=held_out)).fingerprint if held_out else None
    return found
