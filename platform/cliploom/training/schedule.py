"""The learning rate over a run."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, warmup_steps: int, highest: float) -> float:
    """Linear warm-up to `highest` over `warmup_steps`, then half a cosine to 0 at `steps` (Radford et al. 2021, 2.5).

    Args:
        step: the step about to be taken, from 0.
        steps: steps of the whole run.
        warmup_steps: steps of warm-up.
        highest: the rate after warm-up.
    """
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return highest * 0.5 * (1 + math.cos(math.pi * done))
