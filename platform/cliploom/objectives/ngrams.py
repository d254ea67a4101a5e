"""Predicting the caption by n-grams that the image makes likely: Visual N-Grams (Li et al. 2017, "Learning Visual
N-Grams from Web Data"), trained on that paper's Jelinek-Mercer loss.

The image scores every n-gram of a dictionary. The probability of a token behind a history is interpolated between what
the image says of longer and of shorter n-grams:

    p_n(token | history) = a q_n(token | history) + (1 - a) p_(n-1)(token | history without its first token)

Every p is a distribution over all tokens: q_n is the softmax of the scores of those n-grams in the dictionary that
continue the history, and a is 0 where none does; p_0 is uniform, so that a token outside the dictionary has a
probability too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cliploom.models import ModelConfig
from cliploom.models.vit import project
from cliploom.objectives.baseline import Baseline, Tokens, columns, outputs, whole
from cliploom.objectives.dictionary import NOWHERE, check_table, walk

SMOOTHING = 0.2  # a: the share of the longer n-gram
SCORED_ELEMENTS = 2**24  # n-grams of texts that are scored at once, for all images


class NGramPredictor(Baseline):
    """Distributions over a dictionary's n-grams, from an image's embedding. It has no text tower.

    Args:
        config: the model's geometry.
        ngrams: the dictionary's table, int64 [K].

    Raises:
        InputError: `ngrams` is no such table.
    """

    ngrams: Tensor
    _siblings: Tensor
    _family: Tensor

    def __init__(self, config: ModelConfig, ngrams: Tensor) -> None:
        super().__init__(config, pooled=True)
        check_table(ngrams, config.vocab_size)
        self.register_buffer("ngrams", ngrams.clone())
        # N-grams that differ in the last token alone are a family, which a softmax is over.
        nodes, siblings = (ngrams // config.vocab_size).unique(return_inverse=True)
        family = torch.full((len(ngrams) + 1,), NOWHERE)
        family[nodes] = torch.arange(len(nodes))
        self.register_buffer("_siblings", siblings, persistent=False)  # [K], the family of each n-gram
        self.register_buffer("_family", family, persistent=False)  # [K + 1], the family that continues each node
        self.families = len(nodes)
        self.embeddings = nn.Parameter(torch.empty(config.embed_dim, len(ngrams)))
        nn.init.normal_(self.embeddings, std=0.02)

    def forward(
        self, images: Tensor, tokens: Tokens, restore: Tensor | None = None, patches: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the loss is made of; arguments as `CLIP`'s.

        Returns:
            -log p(caption | image) of each sample, [m], at least fp32: the sum over its tokens behind the start, the
            end with them. And [0], since there are no shared numbers.
        """
        logits, norms = self._logits(images, patches)
        ngrams, families, real = self._find(whole(tokens, restore))
        found = logits.gather(1, ngrams.clamp(min=0).flatten(1)) - norms.gather(1, families.clamp(min=0).flatten(1))
        return outputs(-(self._mix(found.view(ngrams.shape), ngrams, families) * real).sum(1))

    @torch.no_grad()
    def score(self, images: Tensor, tokens: Tensor) -> Tensor:
        """log p(text | image), fp32 [B, T]: of normalised images [B, 3, H, W] and texts, integer [T, L]."""
        logits, norms = self._logits(images)
        tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1]
        ngrams, families, real = self._find(tokens)
        most = max(1, SCORED_ELEMENTS // (len(images) * ngrams[0].numel()))
        parts = [part.split(most) for part in (ngrams, families, real)]
        return torch.cat([self._score(logits, norms, *part) for part in zip(*parts, strict=True)], dim=1).float()

    def _score(self, logits: Tensor, norms: Tensor, ngrams: Tensor, families: Tensor, real: Tensor) -> Tensor:
        """log p of some texts for all images, [B, T]."""
        found = logits[:, ngrams.clamp(min=0)] - norms[:, families.clamp(min=0)]
        return (self._mix(found, ngrams, families) * real).sum(-1)

    def _logits(self, images: Tensor, patches: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores of all n-grams [B, K] and the log-sum-exp over each family [B, F]."""
        logits = project(self.see(images, patches), self.embeddings)
        shape = (len(logits), self.families)
        index = self._siblings.expand_as(logits)
        highest = logits.new_full(shape, -torch.inf).scatter_reduce(1, index, logits.detach(), "amax")
        sums = logits.new_zeros(shape).index_add(1, self._siblings, (logits - highest[:, self._siblings]).exp())
        return logits, highest + sums.log()

    def _find(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What texts, integer [B, L], have in the dictionary.

        Returns:
            Places of the n-grams that end at each position but the first, n ascending, and the families that continue
            their histories, int64 [B, L - 1, n], NOWHERE where there is none; and whether positions are the text's.
        """
        before, ends = walk(self.ngrams, tokens, self.config.vocab_size)
        histories = torch.stack(before, dim=-1)[:, 1:]
        ngrams = torch.stack(ends, dim=-1)[:, 1:]
        families = torch.where(histories == NOWHERE, NOWHERE, self._family[histories.clamp(min=0)])
        column, end = columns(tokens)
        return torch.where(ngrams == NOWHERE, NOWHERE, ngrams - 1), families, (column <= end)[:, 1:]

    def _mix(self, log_q: Tensor, ngrams: Tensor, families: Tensor) -> Tensor:
        """log p of each token, [..., L], interpolated over n from log q [..., L, n]."""
        observed = log_q.masked_fill(ngrams == NOWHERE, -torch.inf).exp()
        p = torch.full_like(observed[..., 0], 1 / self.config.vocab_size)
        for n in range(observed.shape[-1]):
            p = torch.where(families[..., n] == NOWHERE, p, SMOOTHING * observed[..., n] + (1 - SMOOTHING) * p)
        return p.log()
