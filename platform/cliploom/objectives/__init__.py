"""What is learned from image-text pairs: losses over the whole global batch, on torch alone."""

from cliploom.objectives.contrastive import GlobalLoss, contrastive
from cliploom.objectives.ranks import Ranks

__all__ = ["GlobalLoss", "Ranks", "contrastive"]
