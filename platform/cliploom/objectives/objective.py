"""The one interface of all objectives: a network, and the loss of what it gives for the global batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cliploom.errors import InputError
from cliploom.models import CLIP, ModelConfig
from cliploom.objectives.bag_of_words import BagOfWordsPredictor
from cliploom.objectives.captioning import Captioner
from cliploom.objectives.contrastive import contrastive
from cliploom.objectives.loss import GlobalLoss
from cliploom.objectives.mean import mean
from cliploom.objectives.ngrams import NGramPredictor
from cliploom.objectives.ranks import Ranks
from cliploom.objectives.sigmoid import sigmoid


@dataclass(frozen=True)
class Objective:
    """What is learned from image-text pairs.

    A network's forward takes (images, tokens, restore, patches) as `CLIP`'s does, and gives tensors with a row a sample
    and last, [s], the numbers that all samples share.

    Attributes:
        geometry: the config that the network has, of the model's.
        network: makes it, with random weights, from that config (and a dictionary of n-grams).
        loss: of (tensors with a row a sample, shared numbers, ranks).
        shared: names of the shared numbers.
        needs_ngrams: whether the network has a dictionary of n-grams.
    """

    geometry: Callable[[ModelConfig], ModelConfig]
    network: Callable[..., nn.Module]
    loss: Callable[[Sequence[Tensor], Tensor, Ranks], GlobalLoss]
    shared: tuple[str, ...] = ()
    needs_ngrams: bool = False


OBJECTIVES: dict[str, Objective] = {
    "contrastive": Objective(lambda config: config, CLIP, contrastive, ("logit_scale",)),
    "sigmoid": Objective(lambda config: replace(config, logit_bias=True), CLIP, sigmoid, ("logit_scale", "logit_bias")),
    # The text tower is the mean of its words' embeddings (Radford et al. 2021, figure 2).
    "bag_of_words_contrastive": Objective(
        lambda config: replace(config, text_layers=0), CLIP, contrastive, ("logit_scale",)
    ),
    "captioning": Objective(lambda config: config, Captioner, mean),
    "bag_of_words": Objective(lambda config: config, BagOfWordsPredictor, mean),
    "ngrams": Objective(lambda config: config, NGramPredictor, mean, needs_ngrams=True),
}


def objective(name: str) -> Objective:
    """The objective called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in OBJECTIVES:
        raise InputError(f"no objective is called {name}; they are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def create(name: str, config: ModelConfig, seed: int, ngrams: Tensor | None = None) -> nn.Module:
    """The objective's network with random weights: a function of config, dictionary and seed, on the CPU.

    Args:
        name: of the objective.
        config: the model's geometry, which the objective may change (`Objective.geometry`).
        seed: torch's own generators stay as they were.
        ngrams: table of the dictionary (`count_ngrams`), of an objective that has one.

    Raises:
        InputError: there is no such objective, or its dictionary is missing or damaged.
    """
    found = objective(name)
    parts: list[Tensor] = []
    if found.needs_ngrams:
        if ngrams is None:
            raise InputError(f"the objective {name} needs a dictionary: give objective.ngrams, made by jobs/ngrams.py")
        parts = [ngrams]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return found.network(found.geometry(config), *parts)
