"""What is learned from image-text pairs: networks, and losses over the whole global batch, on torch alone."""

from cliploom.objectives.contrastive import contrastive
from cliploom.objectives.dictionary import count_ngrams
from cliploom.objectives.files import load, save_state
from cliploom.objectives.loss import GlobalLoss
from cliploom.objectives.mean import mean
from cliploom.objectives.objective import OBJECTIVES, Objective, create, objective
from cliploom.objectives.ranks import Ranks
from cliploom.objectives.scoring import score
from cliploom.objectives.sigmoid import sigmoid

__all__ = [
    "OBJECTIVES",
    "GlobalLoss",
    "Objective",
    "Ranks",
    "contrastive",
    "count_ngrams",
    "create",
    "load",
    "mean",
    "objective",
    "save_state",
    "score",
    "sigmoid",
]
