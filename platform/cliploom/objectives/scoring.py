"""Zero-shot scores of texts for images, by any objective's network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cliploom.models import CLIP
from cliploom.objectives.baseline import Baseline


@torch.no_grad()
def score(network: nn.Module, images: Tensor, tokens: Tensor) -> Tensor:
    """How well each text fits each image; the highest of a row is the zero-shot class.

    Args:
        network: of any objective, in evaluation mode.
        images: float [B, 3, H, W], normalised.
        tokens: integer [T, L], of the classes' texts.

    Returns:
        fp32 [B, T]. Of CLIP the scaled cosine, with the bias where there is one. Of networks that predict text, its
        log-likelihood given the image: over all its tokens of a captioner and of n-grams; the mean over its words of a
        bag of words.

    Raises:
        InputError: a bag of words has no words.
    """
    if isinstance(network, CLIP):
        image, text, numbers = network(images, tokens)
        return (numbers[0] * image @ text.T + numbers[1:].sum()).float()
    assert isinstance(network, Baseline)
    return network.score(images, tokens)
