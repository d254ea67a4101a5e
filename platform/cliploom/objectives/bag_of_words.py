"""Predicting which words are in the caption, whatever their order (the second of the paper's baselines).

As Joulin et al. 2016, "Learning Visual Features from Large Weakly Supervised Data", with byte-pair tokens for words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliploom.errors import InputError
from cliploom.models import ModelConfig
from cliploom.models.vit import project
from cliploom.objectives.baseline import Baseline, Tokens, columns, outputs, whole


class BagOfWordsPredictor(Baseline):
    """A distribution over all words, from an image's embedding. It has no text tower."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, pooled=True)
        self.words = nn.Parameter(torch.empty(config.embed_dim, config.vocab_size))
        nn.init.normal_(self.words, std=0.02)

    def forward(
        self, images: Tensor, tokens: Tokens, restore: Tensor | None = None, patches: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the loss is made of; arguments as `CLIP`'s.

        Returns:
            The cross entropy of each sample, [m], at least fp32: minus the mean of log p(word | image) over the
            caption's distinct words; 0 of a caption without words. And [0], since there are no shared numbers.
        """
        logits = project(self.see(images, patches), self.words)
        words, weights = distinct_words(whole(tokens, restore), logits.dtype)
        found = logits.gather(1, words) - logits.logsumexp(1, keepdim=True)
        return outputs(-(weights * found).sum(1))

    @torch.no_grad()
    def score(self, images: Tensor, tokens: Tensor) -> Tensor:
        """The mean of log p(word | image) over a text's distinct words, fp32 [B, T].

        Args:
            images: float [B, 3, H, W], normalised.
            tokens: integer [T, L].

        Raises:
            InputError: a text has no words.
        """
        logits = project(self.see(images), self.words)
        words, weights = distinct_words(tokens, logits.dtype)
        if empty := (weights.sum(1) == 0).nonzero().flatten().tolist():
            raise InputError(f"text number {empty[0]} has no words, so that it can't be scored: give it some")
        table = logits.log_softmax(1).T.contiguous()  # [vocabulary, B]
        return F.embedding_bag(words, table, per_sample_weights=weights, mode="sum").T.float()


def distinct_words(tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The words between each text's start and end.

    Args:
        tokens: integer [B, L].
        dtype: of the weights.

    Returns:
        Words, int64 [B, L], and their weights [B, L]: 1 / n at one place of each of a text's n distinct words, and 0
        elsewhere.
    """
    column, end = columns(tokens)
    words = torch.where((column > 0) & (column < end), tokens.long(), -1).sort(1).values
    first = words != F.pad(words[:, :-1], (1, 0), value=-1)
    return words.clamp(min=0), first / first.sum(1, keepdim=True).clamp(min=1).to(dtype)
