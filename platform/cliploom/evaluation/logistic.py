"""Logistic regression with an L2 penalty, by L-BFGS over all samples: the linear probe's classifier.

The objective is scikit-learn's: the sum of the samples' losses plus `l2 / 2` times the squared weights, intercepts
free (`C = 1 / l2`). It is minimised in better coordinates: features are centred and rotated to their principal axes,
where Böhning's bound on the weights' Hessian (1992, "Multinomial logistic regression algorithm") is diagonal and says
how to scale each; intercepts start from the classes' frequencies and are scaled by the curvature there. The optimum
stays the same, and L-BFGS gets there in fewer steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_ITERATIONS = 1000  # Radford et al. 2021, A.3
TOLERANCE = 1e-4  # of the gradient of the mean loss, in scaled coordinates
_HISTORY = 10


@dataclass(frozen=True)
class Classifier:
    """Linear scores of classes."""

    weight: Tensor  # [C, D]
    bias: Tensor  # [C]

    def scores(self, features: Tensor) -> Tensor:
        """Features [N, D] -> scores [N, C]."""
        return F.linear(features.to(self.weight), self.weight, self.bias)


class Regression:
    """Samples prepared once for fits with any penalty.

    Args:
        features: float [N, D]; fits are computed in their precision.
        truth: int64 [N], for one softmax over all classes; or bool [N, C], for C regressions of one class each.
        classes: C.
    """

    def __init__(self, features: Tensor, truth: Tensor, classes: int) -> None:
        centre = features.double().mean(0)
        centred = features.double() - centre
        spread, axes = torch.linalg.eigh(centred.T @ centred)
        kept = spread > max(features.shape) * torch.finfo(torch.float64).eps * spread[-1]  # the rest is rounding
        self._centre, self._axes = centre, axes[:, kept]
        self._rotated = (centred @ self._axes).to(features.dtype)  # [N, R]
        self._spread = spread[kept]
        self._truth, self._classes = truth, classes
        counts = truth.sum(0) if truth.ndim == 2 else truth.bincount(minlength=classes)
        self._frequency = (counts + 1) / (len(truth) + (2 if truth.ndim == 2 else classes))  # never 0
        self._solved: dict[float, Tensor] = {}  # coefficients of past fits, in rotated coordinates

    def fit(self, l2: float, tolerance: float = TOLERANCE) -> Classifier:
        """The classifier for a penalty; it starts from that of the nearest penalty that was fitted before."""
        dtype, size = self._rotated.dtype, len(self._rotated)
        penalty = l2 * (2 if self._is_binary else 1)
        frequency = self._frequency.to(self._spread)
        bound = 0.25 if self._truth.ndim == 2 else 0.5  # of a loss's curvature
        curvature = (bound * self._spread + penalty)[:, None].expand(-1, self._classes)
        curvature = torch.cat([curvature, (size * frequency * (1 - frequency))[None]])
        scale = (curvature.rsqrt() * math.sqrt(size)).to(dtype)
        nearest = min(self._solved, key=lambda known: abs(math.log(known / l2)), default=None)
        if nearest is None:
            start = torch.zeros_like(scale)
            start[-1] = (frequency.logit() if self._truth.ndim == 2 else frequency.log()).to(dtype)
        else:
            start = self._solved[nearest]
        found = self._minimise(start / scale, scale, penalty, tolerance) * scale
        self._solved[l2] = found
        weight = self._axes.to(dtype) @ found[:-1]
        bias = found[-1] - self._centre.to(dtype) @ weight
        return Classifier(weight.T.contiguous(), bias)

    @property
    def _is_binary(self) -> bool:
        """Of two classes scikit-learn fits one vector, the difference of a softmax's two: half the squares in all."""
        return self._truth.ndim == 1 and self._classes == 2

    def _minimise(self, start: Tensor, scale: Tensor, penalty: float, tolerance: float) -> Tensor:
        """The scaled coefficients [R + 1, C], intercepts last, of the smallest objective."""
        unknown = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [unknown],
            max_iter=MAX_ITERATIONS,
            history_size=_HISTORY,
            tolerance_grad=tolerance,
            tolerance_change=tolerance**2,
            line_search_fn="strong_wolfe",
        )

        @torch.no_grad()
        def objective() -> Tensor:
            coefficients = unknown * scale
            weight, size = coefficients[:-1], len(self._rotated)
            scores = torch.addmm(coefficients[-1], self._rotated, weight)
            loss, slope = self._loss(scores.double())  # under a strong penalty it falls by less than single precision
            slope = slope.to(scores.dtype)
            gradient = torch.cat([self._rotated.T @ slope + penalty * weight, slope.sum(0, keepdim=True)])
            unknown.grad = gradient * scale / size
            return (loss + penalty / 2 * weight.square().sum()) / size

        optimizer.step(objective)
        return unknown.detach()

    def _loss(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The samples' losses in all, and their slope by each of the scores [N, C]."""
        if self._truth.ndim == 2:
            shown = self._truth.to(scores.dtype)
            return F.binary_cross_entropy_with_logits(scores, shown, reduction="sum"), scores.sigmoid() - shown
        logs = scores.log_softmax(1)
        own = self._truth[:, None]
        loss = -logs.gather(1, own).sum()
        return loss, logs.exp_().scatter_add_(1, own, torch.full_like(own, -1, dtype=scores.dtype))
