"""What the paper's baselines have in common: they predict the text from the image, and embed no text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliploom.models import ModelConfig
from cliploom.models.resnet import ModifiedResNet
from cliploom.models.vit import VisionTransformer

Tokens = Tensor | Sequence[Tensor]


class Baseline(nn.Module):
    """An image tower, and a way to predict texts from what it gives.

    Args:
        config: the model's geometry.
        pooled: whether the tower gives an embedding, or the features of all positions.
    """

    def __init__(self, config: ModelConfig, pooled: bool) -> None:
        super().__init__()
        self.config = config
        self.visual = ModifiedResNet(config, pooled) if config.is_resnet else VisionTransformer(config, pooled)

    def score(self, images: Tensor, tokens: Tensor) -> Tensor:
        """How well texts fit images: see `cliploom.objectives.score`."""
        raise NotImplementedError

    def see(self, images: Tensor, patches: Tensor | None = None) -> Tensor:
        """What the image tower gives: embeddings [B, D] or the positions' features [B, S, C].

        Args:
            images: float [B, 3, H, W], normalised.
            patches: int64 [B, P], the patches that a vision transformer sees; all by default.
        """
        images = images.to(self.visual.conv1.weight.dtype)
        features: Tensor = self.visual(images) if patches is None else self.visual(images, patches)
        return features


def outputs(losses: Tensor) -> tuple[Tensor, Tensor]:
    """What forward gives: the loss of each sample, [m], and [0], since there are no numbers that all share."""
    return losses, losses.new_zeros(0)


def buckets(tokens: Tokens) -> Sequence[Tensor]:
    """Texts as a sequence of length buckets, int [m_i, L_i]."""
    return [tokens] if isinstance(tokens, Tensor) else tokens


def whole(tokens: Tokens, restore: Tensor | None) -> Tensor:
    """Length buckets as one batch in the images' order, int [m, L], padded with zeros.

    Args:
        tokens: int [m, L], or buckets [m_i, L_i].
        restore: int64 [m], puts the rows of the buckets back in order.
    """
    parts = buckets(tokens)
    width = max(part.shape[1] for part in parts)
    padded = torch.cat([F.pad(part, (0, width - part.shape[1])) for part in parts])
    return padded if restore is None else padded.index_select(0, restore)


def columns(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each column, int64 [L], and that of each row's end token, int64 [B, 1]."""
    return torch.arange(tokens.shape[1], device=tokens.device), tokens.argmax(-1, keepdim=True)
