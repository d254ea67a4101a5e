"""The plan and the step as a slow, plain, single-process program in float64, to compare everything else against.

It shares no code with the library and has no cuts: no workers, no micro-batches, no tiles, no cache. What the library
does in a distributed, tiled or resumed way has to come out as this does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MASK = (1 << 64) - 1
SHARDS, SAMPLES, REPLACEMENT, MIXTURE = 0, 1, 2, 5
TURN = 64


class Sample(NamedTuple):
    """One visit of one sample."""

    epoch: int
    shard: int
    index: int  # type: ignore[assignment]  # hides tuple.index


def splitmix(words: Iterable[int]) -> int:
    """The plan's hash of integers."""
    value = 0
    for word in words:
        value = ((value ^ (word & MASK)) + 0x9E3779B97F4A7C15) & MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        value ^= value >> 31
    return value


class Part(NamedTuple):
    """One manifest of a mixture."""

    shard_samples: list[int]
    weight: float = 1.0
    denied: frozenset[tuple[int, int]] = frozenset()  # (shard, index)


def epoch_order(part: Part, first_shard: int, seed: int, window_shards: int, epoch: int) -> list[Sample]:
    """All samples of one pass over a part in the order in which they come."""
    numbers = range(first_shard, first_shard + len(part.shard_samples))
    shards = sorted(numbers, key=lambda s: (splitmix([seed, SHARDS, epoch, s]), s))
    order = []
    for start in range(0, len(shards), window_shards):
        window = [
            (s, i)
            for s in shards[start : start + window_shards]
            for i in range(part.shard_samples[s - first_shard])
            if (s - first_shard, i) not in part.denied
        ]
        window.sort(key=lambda sample: splitmix([seed, SAMPLES, epoch, *sample]))
        order += [Sample(epoch, *sample) for sample in window]
    return order


def passes(part: Part, first_shard: int, seed: int, window_shards: int) -> Iterator[Sample]:
    """A part's samples, pass after pass without end."""
    epoch = 0
    while True:
        yield from epoch_order(part, first_shard, seed, window_shards, epoch)
        epoch += 1


def first_shards(parts: Sequence[Part]) -> list[int]:
    """The number of each part's first shard, all shards counted through."""
    return [sum(len(part.shard_samples) for part in parts[:number]) for number in range(len(parts))]


def mixture(parts: Sequence[Part], seed: int, window_shards: int) -> Iterator[Sample]:
    """All draws of a run, without end."""
    streams = [passes(part, first, seed, window_shards) for part, first in zip(parts, first_shards(parts), strict=True)]
    draws = [round(part.weight * (sum(part.shard_samples) - len(part.denied))) for part in parts]
    turns = math.ceil(sum(draws) / TURN)
    place = 0
    while True:
        for turn in range(turns):
            drawn = []
            for number, draw in enumerate(draws):
                for _ in range((turn + 1) * draw // turns - turn * draw // turns):
                    drawn.append((splitmix([seed, MIXTURE, place]), number))
                    place += 1
            yield from (next(streams[number]) for _, number in sorted(drawn))


def global_batches(
    parts: Sequence[Part], seed: int, window_shards: int, batch_size: int, count: int
) -> list[list[Sample]]:
    """The first `count` global batches."""
    order = mixture(parts, seed, window_shards)
    return [[next(order) for _ in range(batch_size)] for _ in range(count)]


def replacement(parts: Sequence[Part], seed: int, window_shards: int, bad: Sample, attempt: int) -> Sample:
    """The sample that stands in for an unreadable one: of the same part, from the same pass."""
    first, part = max(
        (first, part) for first, part in zip(first_shards(parts), parts, strict=True) if first <= bad.shard
    )
    order = epoch_order(part, first, seed, window_shards, bad.epoch)
    return order[splitmix([seed, REPLACEMENT, *bad, attempt]) % len(order)]


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """The mean of both directions' cross entropies over the whole batch; features normalised, [G, D]."""
    logits = logit_scale * image_features @ text_features.T
    target = torch.arange(len(logits))
    return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2


def sigmoid_loss(image_features: Tensor, text_features: Tensor, shared: Tensor) -> Tensor:
    """Cross entropy of each pair being one or none, summed over all, by batch size; features normalised, [G, D]."""
    logits = shared[0] * image_features @ text_features.T + shared[1]
    belongs = torch.eye(len(logits), dtype=logits.dtype)
    return nn.functional.binary_cross_entropy_with_logits(logits, belongs, reduction="sum") / len(logits)


def mean_loss(losses: Tensor, shared: Tensor) -> Tensor:
    """The mean of the samples' own."""
    return losses.mean() + shared.sum()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "contrastive": contrastive_loss,
    "bag_of_words_contrastive": contrastive_loss,
    "sigmoid": sigmoid_loss,
}


def learning_rate(step: int, steps: int, warmup_steps: int, highest: float) -> float:
    """Linear warm-up to `highest`, then half a cosine down to 0."""
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


class Trainer:
    """Training of a model that maps (images, tokens) to what an objective's loss is made of."""

    def __init__(
        self, model: nn.Module, settings: Any, steps: int, warmup_steps: int, objective: str = "contrastive"
    ) -> None:
        self.model = model.double()
        self.loss = LOSSES.get(objective, mean_loss)
        self.settings, self.steps, self.warmup_steps, self.step = settings, steps, warmup_steps, 0
        decayed = [p for p in model.parameters() if p.ndim >= 2]
        others = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        betas = (settings.beta1, settings.beta2)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=settings.epsilon)

    def gradients(
        self, images: Tensor, tokens: Tensor, norm_batch_size: int | None = None
    ) -> tuple[float, dict[str, Tensor]]:
        """Loss of the whole batch, and each parameter's gradient; BatchNorm sees `norm_batch_size` rows at once."""
        self.model.zero_grad()
        rows = norm_batch_size or len(images)
        parts = [self.model(*part) for part in zip(images.split(rows), tokens.split(rows), strict=True)]
        *columns, shared = zip(*parts, strict=True)
        loss = self.loss(*(torch.cat(column) for column in columns), shared[0])
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

    def train(self, images: Tensor, tokens: Tensor) -> float:
        """One optimizer step on the whole batch; its loss."""
        loss, _ = self.gradients(images, tokens)
        if self.settings.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm)
        rate = learning_rate(self.step, self.steps, self.warmup_steps, self.settings.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        return loss


def run(
    trainer: Trainer, batches: Iterable[list[Sample]], load: Callable[[list[Sample]], tuple[Tensor, Tensor]]
) -> list[float]:
    """Train on global batches; the losses."""
    return [trainer.train(*load(batch)) for batch in batches]


def caption_surprise(weights: dict[str, Tensor], heads: int, features: Tensor, tokens: list[int]) -> Tensor:
    """-log p of a caption (start to end token) under a captioner's weights, given its image's features [S, C]."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One position's heads, side by side."""
        size = len(query) // heads
        parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
        return torch.cat([(keys[:, s] @ query[s] / math.sqrt(size)).softmax(0) @ values[:, s] for s in parts])

    image = norm(linear(features, "image_projection"), "ln_image")
    x = weights["token_embedding"][tokens] + weights["positional_embedding"][: len(tokens)]
    layers = sum(name.endswith("mlp.c_fc.weight") and name.startswith("transformer.") for name in weights)
    for block in (f"transformer.resblocks.{number}" for number in range(layers)):
        y = norm(x, f"{block}.ln_1")
        packed = y @ weights[f"{block}.attn.in_proj_weight"].T + weights[f"{block}.attn.in_proj_bias"]
        query, key, value = packed.chunk(3, dim=1)
        seen = [attend(query[i], key[: i + 1], value[: i + 1]) for i in range(len(x))]
        x = x + linear(torch.stack(seen), f"{block}.attn.out_proj")
        query = linear(norm(x, f"{block}.ln_cross"), f"{block}.cross_attn.q_proj")
        key, value = linear(image, f"{block}.cross_attn.kv_proj").chunk(2, dim=1)
        x = x + linear(torch.stack([attend(q, key, value) for q in query]), f"{block}.cross_attn.out_proj")
        y = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + linear(y / (1 + (-1.702 * y).exp()), f"{block}.mlp.c_proj")
    p = (norm(x, "ln_final") @ weights["token_embedding"].T).softmax(1)
    return -sum((p[i, tokens[i + 1]].log() for i in range(len(tokens) - 1)), torch.tensor(0.0))


def bag_of_words_loss(logits: Tensor, words: set[int]) -> Tensor:
    """Cross entropy of an image's logits over the vocabulary with the uniform distribution over its caption's words."""
    target = torch.tensor([1 / len(words) if word in words else 0.0 for word in range(len(logits))])
    return -(target * logits.log_softmax(0)).sum()


NGram = tuple[int, ...]


def frequent_ngrams(texts: Iterable[list[int]], most: int, min_count: int, orders: int) -> list[NGram]:
    """The n-grams that occur most often."""
    counts: dict[NGram, int] = {}
    for text in texts:
        for n in range(1, orders + 1):
            for start in range(len(text) - n + 1):
                found = tuple(text[start : start + n])
                counts[found] = counts.get(found, 0) + 1
    ranked = sorted((-count, len(ngram), ngram) for ngram, count in counts.items() if count >= min_count)
    return [ngram for *_, ngram in ranked[:most]]


def ngram_probability(scores: dict[NGram, Tensor], token: int, history: NGram, vocab_size: int, share: float) -> Tensor:
    """Jelinek-Mercer's p(token | history), from an image's scores of the n-grams in a dictionary."""
    if history:
        shorter = ngram_probability(scores, token, history[1:], vocab_size, share)
    else:
        shorter = torch.tensor(1 / vocab_size, dtype=torch.float64)
    family = {ngram[-1]: score.exp() for ngram, score in scores.items() if ngram[:-1] == history}
    if not family:
        return shorter
    return share * family.get(token, torch.tensor(0.0)) / sum(family.values()) + (1 - share) * shorter
