"""The plan and the step as a slow, plain, single-process program in float64, to compare everything else against.

It shares no code with the library and has no cuts: no workers, no micro-batches, no tiles, no cache. What the library
does in a distributed, tiled or resumed way has to come out as this does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MASK = (1 << 64) - 1
SHARDS, SAMPLES, REPLACEMENT = 0, 1, 2


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


def epoch_order(shard_samples: Sequence[int], seed: int, window_shards: int, epoch: int) -> list[Sample]:
    """All samples of one epoch in the order in which they come."""
    shards = sorted(range(len(shard_samples)), key=lambda s: (splitmix([seed, SHARDS, epoch, s]), s))
    order = []
    for start in range(0, len(shards), window_shards):
        window = [(s, i) for s in shards[start : start + window_shards] for i in range(shard_samples[s])]
        window.sort(key=lambda sample: splitmix([seed, SAMPLES, epoch, *sample]))
        order += [Sample(epoch, *sample) for sample in window]
    return order


def global_batches(
    shard_samples: Sequence[int], seed: int, window_shards: int, batch_size: int, count: int
) -> list[list[Sample]]:
    """The first `count` global batches."""
    order: list[Sample] = []
    epoch = 0
    while len(order) < count * batch_size:
        order += epoch_order(shard_samples, seed, window_shards, epoch)
        epoch += 1
    return [order[g * batch_size : (g + 1) * batch_size] for g in range(count)]


def replacement(shard_samples: Sequence[int], seed: int, window_shards: int, bad: Sample, attempt: int) -> Sample:
    """The sample that stands in for an unreadable one."""
    order = epoch_order(shard_samples, seed, window_shards, bad.epoch)
    return order[splitmix([seed, REPLACEMENT, *bad, attempt]) % len(order)]


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """The mean of both directions' cross entropies over the whole batch; features normalised, [G, D]."""
    logits = logit_scale * image_features @ text_features.T
    target = torch.arange(len(logits))
    return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2


def learning_rate(step: int, steps: int, warmup_steps: int, highest: float) -> float:
    """Linear warm-up to `highest`, then half a cosine down to 0."""
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


class Trainer:
    """Training of a model that maps (images, tokens) to (image features, text features, logit scale)."""

    def __init__(self, model: nn.Module, settings: Any, steps: int, warmup_steps: int) -> None:
        self.model = model.double()
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
        image, text = (torch.cat([part[side] for part in parts]) for side in (0, 1))
        loss = contrastive_loss(image, text, parts[0][2])
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
