"""What a worker measures of its steps between two reports: samples/s, seconds a step, MFU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist

from cliploom.models.flops import forward_flops
from cliploom.training.peak import peak_flops
from cliploom.training.run import Run


class Meter:
    """Measures a worker's steps. All workers must make one at the same time.

    MFU is the FLOPs that the model needs, over those that the workers' devices could have done in the time
    (`peak.peak_flops`). The model needs three times a forward pass (Chowdhery et al. 2022, "PaLM", appendix B), a
    locked tower once; texts count as long as they are, and what is computed twice to save memory counts once.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run = run
        peak = torch.tensor([peak_flops(device, run.config.train.precision) if run.makes_clip else 1.0], device=device)
        dist.all_reduce(peak)
        self._peak = float(peak)
        self._mark = time.perf_counter()
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        self._texts, self._tokens = 0, 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """The block takes a step."""
        began = time.perf_counter()
        yield
        self._steps += 1
        self._seconds += time.perf_counter() - began

    def add(self, waited: float, tokens: np.ndarray) -> None:
        """Count seconds waited for a micro-batch, and its texts, int [m, 77]."""
        self._waited += waited
        self._texts += len(tokens)
        self._tokens += int((tokens.argmax(-1) + 1).sum())

    def metrics(self) -> dict[str, float]:
        """Of the steps since the last call, by their stable names."""
        now = time.perf_counter()
        rate = self._steps * self._run.stream.global_batch_size / (now - self._mark)
        found = {
            "samples_per_second": rate,
            "step_seconds": self._seconds / self._steps,
            "data_wait_seconds": self._waited,
            "productive_seconds": self._seconds - self._waited,
            "steps": self._steps,
        }
        if self._run.makes_clip:
            found["mfu"] = self._flops() * rate / self._peak
        self._mark, self._steps, self._seconds, self._waited = now, 0, 0.0, 0.0
        self._texts, self._tokens = 0, 0
        return found

    def _flops(self) -> float:
        """Of a sample's step."""
        flops = forward_flops(self._run.model, round(self._tokens / self._texts))
        lock, seen = self._run.config.train.lock, 1 - self._run.config.model.patch_dropout
        return (1 if lock == "image" else 3) * seen * flops.image + (1 if lock == "text" else 3) * flops.text
