"""Small networks of the baselines, and texts and pictures for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cliploom import models, objectives
from cliploom.objectives.baseline import Baseline

VOCABULARY = 40
START, END = VOCABULARY - 2, VOCABULARY - 1
LENGTH = 12
BASELINES = ("captioning", "bag_of_words", "ngrams")
VIT, RESNET = "ViT-mu-8-32", "RN14-mu-64"


def config(name: str = VIT) -> models.ModelConfig:
    return replace(models.preset(name), vocab_size=VOCABULARY, context_length=LENGTH)


def texts(count: int, seed: int = 0, words: int = 30, fixed: int | None = None) -> Tensor:
    """Token ids int64 [count, 12] of texts of so many different words; 1 to 10 each, the first 10, or all `fixed`."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(count, LENGTH, dtype=torch.int64)
    for row in range(count):
        drawn = LENGTH - 2 if row == 0 else int(torch.randint(1, LENGTH - 1, (1,), generator=generator))
        length = fixed or drawn
        words_of_it = torch.randint(0, words, (length,), generator=generator)
        tokens[row, : length + 2] = torch.tensor([START, *words_of_it.tolist(), END])
    return tokens


def listed(tokens: Tensor) -> list[list[int]]:
    """Texts from start to end token."""
    return [row[: row.index(END) + 1] for row in tokens.tolist()]


def pictures(count: int, geometry: models.ModelConfig, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, geometry.image_size, geometry.image_size, generator=generator, dtype=dtype)


def ngrams() -> Tensor:
    """The dictionary of `network`: of all orders, with every n-gram of `texts(3)`."""
    return objectives.count_ngrams([texts(9), texts(3), texts(3)], VOCABULARY, most=150, min_count=1)


def network(objective: str, name: str = VIT, dtype: torch.dtype = torch.float64) -> Baseline:
    """With all weights random, in evaluation mode: gains of 1 and biases of 0 would hide mistakes in their use."""
    made = objectives.create(objective, config(name), 0, ngrams())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            spread = 1.7 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.add_(torch.empty_like(parameter).uniform_(-spread, spread, generator=generator))
    assert isinstance(made, Baseline)
    return made.to(dtype).eval()


def loss(made: nn.Module, images: Tensor, tokens: Tensor | list[Tensor], *others: Tensor) -> Tensor:
    """Each sample's, [m]; the shared numbers are none."""
    losses, shared = made(images, tokens, *others)
    assert shared.shape == (0,)
    return losses


def gradients(made: nn.Module, losses: Tensor) -> dict[str, Tensor]:
    made.zero_grad()
    losses.sum().backward()
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
