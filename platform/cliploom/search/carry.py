"""Settings found at a small scale, carried to a larger model by stated rules, as a config to train with.

The paper's hyper-parameters were searched on a ResNet-50 for one epoch and "adapted heuristically for larger models"
(Radford et al. 2021, 2.5). The rules here are such heuristics: each says where it comes from, and stands in the output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from cliploom import config as configs
from cliploom.config import Config
from cliploom.models import preset
from cliploom.models.compound import compound
from cliploom.models.config import ModelConfig
from cliploom.models.flops import forward_flops
from cliploom.search.space import Value
from cliploom.search.trial import trial_config

# Of the paper's tables 19 and 20: 5e-4 for RN50 and 3.6e-4 for RN50x64, 43.6 times its compute of an image.
_RATE_EXPONENT = math.log(5.0 / 3.6) / math.log(265.9 / 6.1)


class Carried(NamedTuple):
    """One setting, and the rule by which it is what it is."""

    key: str
    found: Any
    carried: Any
    rule: str


def carry(config: Config, best: Mapping[str, Value]) -> list[Carried]:
    """The settings for `config.tune.carry`.

    Args:
        config: of the search.
        best: the settings of its best trial.
    """
    assert config.tune.carry
    small, large = trial_config(config, best), config.tune.carry
    compute = image_compute(large.model, large.factor) / image_compute(small.model.name, small.model.factor)
    batch = large.global_batch_size or small.train.global_batch_size
    batches = batch / small.train.global_batch_size
    rate = learning_rate(small.train.learning_rate, compute, batches)
    rows = [
        Carried("model.name", small.model.name, large.model, "asked for"),
        Carried("model.factor", small.model.factor, large.factor, "asked for"),
        Carried("train.global_batch_size", small.train.global_batch_size, batch, "asked for, or as it was"),
        Carried(
            "train.learning_rate",
            small.train.learning_rate,
            rate,
            f"x {compute:.3g}^-{_RATE_EXPONENT:.3f} for {compute:.3g} times the compute of an image (the exponent of "
            f"the paper's ResNets, tables 19 and 20), x sqrt({batches:.3g}) for the batch (Malladi et al. 2022)",
        ),
    ]
    rows += _length(small, large.samples)
    known = {row.key for row in rows}
    return rows + [
        Carried(key, value, value, "as it was found: the paper keeps it over all sizes")
        for key, value in best.items()
        if key not in known
    ]


def learning_rate(found: float, compute: float, batches: float = 1.0) -> float:
    """The learning rate for a model of `compute` times the FLOPs an image, in `batches` times the global batch."""
    return float(f"{found * compute**-_RATE_EXPONENT * math.sqrt(batches):.3g}")


def image_compute(name: str, factor: float) -> float:
    """FLOPs of an image's forward pass through a preset, scaled by the compound rule.

    Raises:
        InputError: there is no such model.
    """
    base: ModelConfig = preset(name)
    return forward_flops(base if factor == 1 else compound(base, factor)).image


def config_file(config: Config, rows: list[Carried]) -> str:
    """A config for `jobs/train.py`, as YAML, with the rules as comments."""
    values: dict[str, Any] = {row.key: row.carried for row in rows if row.carried is not None}
    values["run.name"] = f"{config.run.name}-carried"
    carried = {row.key: row.carried for row in rows}
    made = configs.replaced(config, {**carried, **values})
    default = Config().model_dump(mode="json")
    kept = ("run", "ray", "data", "model", "objective", "train", "registry")
    tree = {name: _differing(made.model_dump(mode="json")[name], default[name]) for name in kept}
    rules = "".join(f"# {row.key}: {row.found} -> {row.carried}: {row.rule}\n" for row in rows)
    body = yaml.safe_dump({name: part for name, part in tree.items() if part}, sort_keys=False)
    return f"# What {config.run.name} found, carried to a larger model. How each setting came about:\n{rules}{body}"


def _length(small: Config, samples: int | None) -> list[Carried]:
    """How long training and warm-up take."""
    train = small.train
    if samples is None or train.samples is None:
        return [
            Carried("train.samples", train.samples, samples or train.samples, "asked for, or as it was"),
            Carried("train.epochs", train.epochs, None if samples else train.epochs, "asked for, or as it was"),
            Carried("train.warmup_samples", train.warmup_samples, train.warmup_samples, "as it was"),
        ]
    warmup = round(train.warmup_samples * samples / train.samples)
    return [
        Carried("train.samples", train.samples, samples, "asked for"),
        Carried("train.warmup_samples", train.warmup_samples, warmup, "the same share of all samples"),
    ]


def _differing(values: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value != default[key]}
