"""Predicting the caption, word by word, with a transformer that sees the image: the first of the paper's baselines.

As VirTex (Desai and Johnson 2021, "VirTex: Learning Visual Representations from Textual Annotations"), in one direction
alone, and with CLIP's pre-norm blocks.

Legend of shapes: B images, T texts of each, R = B x T rows, L positions of a text, S of an image, C channels.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cliploom.models import ModelConfig
from cliploom.models.transformer import MLP, Attention, attention, run_block
from cliploom.objectives.baseline import Baseline, Tokens, buckets, columns, outputs

LOGIT_ELEMENTS = 2**26  # of the logits that stand at once: 256 MiB in fp32
SCORED_POSITIONS = 2**16  # of texts that are scored at once


class CrossAttention(nn.Module):
    """Multi-head attention of texts to the positions of their image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.kv_proj = nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Texts [R, L, C] and images [B, S, C] -> [R, L, C]; rows of the same image follow one another.

        An image's texts ask as one long row, so that its keys and values are made once.
        """
        query = self.q_proj(x).reshape(len(image), -1, x.shape[-1])
        [query] = self._split(query, 1)
        key, value = self._split(self.kv_proj(image), 2)
        return self.out_proj(attention(query, key, value).transpose(1, 2).reshape(x.shape))

    def _split(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, L, parts x C] -> `parts` of [B, heads, L, C / heads]."""
        return packed.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()


class DecoderBlock(nn.Module):
    """Causal attention, attention to the image and MLP, each behind a norm and beside a residual connection.

    The weights start as those of `ResidualAttentionBlock`.
    """

    def __init__(self, width: int, heads: int, layers: int, activation: str) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal=True)
        self.ln_1 = nn.LayerNorm(width)
        self.cross_attn = CrossAttention(width, heads)
        self.ln_cross = nn.LayerNorm(width)
        self.mlp = MLP(width, activation)
        self.ln_2 = nn.LayerNorm(width)
        residual_std = (2 * width * layers) ** -0.5
        for projection in (self.attn.in_proj_weight, self.cross_attn.q_proj.weight, self.cross_attn.kv_proj.weight):
            nn.init.normal_(projection, std=width**-0.5)
        nn.init.normal_(self.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        for projection in (self.attn.out_proj.weight, self.cross_attn.out_proj.weight, self.mlp.c_proj.weight):
            nn.init.normal_(projection, std=residual_std)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Texts [R, L, C] and images [B, S, C] -> [R, L, C]."""
        x = x + self.attn(self.ln_1(x))
        x = x + self.cross_attn(self.ln_cross(x), image)
        return x + self.mlp(self.ln_2(x))


class Decoder(nn.Module):
    """A stack of decoder blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.recompute = False
        settings = (config.text_width, config.text_heads, config.text_layers, config.activation)
        self.resblocks = nn.ModuleList(DecoderBlock(*settings) for _ in range(config.text_layers))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Texts [R, L, C] and images [B, S, C] -> [R, L, C]."""
        for block in self.resblocks:
            x = run_block(block, self.recompute, x, image)
        return x


class Captioner(Baseline):
    """A language model of captions given their image.

    The text tower's geometry is the decoder's. The token embedding is also the output layer; it belongs to the network
    itself, so that a partition of parameters over workers (ZeRO stage 3) has it whole for as long as either needs it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, pooled=False)
        width = config.text_width
        self.image_projection = nn.Linear(config.feature_width, width)
        self.ln_image = nn.LayerNorm(width)
        self.token_embedding = nn.Parameter(torch.empty(config.vocab_size, width))
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.transformer = Decoder(config)
        self.ln_final = nn.LayerNorm(width)
        nn.init.normal_(self.image_projection.weight, std=config.feature_width**-0.5)
        nn.init.zeros_(self.image_projection.bias)
        nn.init.normal_(self.token_embedding, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)

    def forward(
        self, images: Tensor, tokens: Tokens, restore: Tensor | None = None, patches: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the loss is made of; arguments as `CLIP`'s.

        Returns:
            -log p(caption | image) of each sample, [m], at least fp32: the sum over its tokens behind the start, the
            end with them. A mean would make a word of a long caption count for less than one of a short; with the sum
            each token of the batch counts the same, as in VirTex. And [0], since there are no shared numbers.
        """
        image = self._grid(images, patches)
        if restore is not None:
            image = image.index_select(0, restore.argsort())
        texts = buckets(tokens)
        parts = zip(texts, image.split([len(text) for text in texts]), strict=True)
        losses = torch.cat([self._surprise(text, part) for text, part in parts])
        return outputs(losses if restore is None else losses.index_select(0, restore))

    @torch.no_grad()
    def score(self, images: Tensor, tokens: Tensor) -> Tensor:
        """log p(text | image), fp32 [B, T]: of normalised images [B, 3, H, W] and texts, integer [T, L].

        The image tower runs once; texts are taken by length, a bounded number at a time.
        """
        image = self._grid(images)
        lengths = tokens.argmax(-1) + 1
        order = lengths.argsort(descending=True, stable=True)
        scores = torch.empty(len(images), len(tokens), device=image.device)
        start = 0
        while start < len(order):
            longest = int(lengths[order[start]])
            part = order[start : start + max(1, SCORED_POSITIONS // (len(images) * longest))]
            surprise = self._surprise(tokens[part, :longest].repeat(len(images), 1), image)
            scores[:, part] = -surprise.view(len(images), -1).to(scores.dtype)
            start += len(part)
        return scores

    def _grid(self, images: Tensor, patches: Tensor | None = None) -> Tensor:
        """The positions of images as texts see them, [B, S, C]."""
        return self.ln_image(self.image_projection(self.see(images, patches)))

    def _surprise(self, tokens: Tensor, image: Tensor) -> Tensor:
        """-log p of texts, integer [R, L], given images [B, S, C]; at least fp32 [R]."""
        read, told = tokens[:, :-1], tokens[:, 1:]
        x = F.embedding(read, self.token_embedding) + self.positional_embedding[: read.shape[1]]
        hidden = self.ln_final(self.transformer(x, image))
        column, end = columns(told)
        real = column <= end
        surprise = self._token_surprise(hidden[real], told[real].long())
        # Put into place and summed by rows, not added up by index, whose order a GPU leaves open.
        return torch.zeros(real.shape, dtype=surprise.dtype, device=real.device).index_put((real,), surprise).sum(1)

    def _token_surprise(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log p of tokens int64 [N] from features [N, C]; at least fp32 [N].

        Logits of all tokens would be the largest tensor of a step by far. They stand for some tokens at a time, and are
        made again in the backward pass.
        """
        size = max(1, LOGIT_ELEMENTS // len(self.token_embedding))
        parts = list(zip(hidden.split(size), targets.split(size), strict=True))
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([_cross_entropy(*part, self.token_embedding) for part in parts])
        again = functools.partial(checkpoint, _cross_entropy, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([again(*part, self.token_embedding) for part in parts])


def _cross_entropy(hidden: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    logits = F.linear(hidden, weight)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")
