"""BatchNorm that is a function of the plan: it normalises over groups of consecutive samples, however a batch is cut.

Batch statistics over whatever a worker happens to hold would make the model depend on the number of workers and the
micro-batch size. Over fixed groups they don't, and a worker needs nobody else's.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of each `group_size` consecutive rows.

    The running statistics stay as they are during the forward pass. `move_statistics` moves them, once a step, towards
    the mean of what all groups of all workers had.
    """

    group_size: int | None = None  # None: all rows of a forward pass are one group

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.seen: list[Tensor] = []  # [2, C]: mean and unbiased variance of each group since the last move

    def float_statistics(self) -> None:
        """Hold the running statistics in fp32, also where the model was cast to bf16: each step moves them a little."""
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean, self.running_var = self.running_mean.float(), self.running_var.float()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same; in training B must be a multiple of the group size."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        if not self.training:
            mean, variance = self.running_mean, self.running_var
            assert mean is not None
            assert variance is not None
            return F.batch_norm(x, mean.to(dtype), variance.to(dtype), weight, bias, eps=self.eps)
        groups = x.split(self.group_size or len(x))
        if len(groups[-1]) != len(groups[0]):
            raise ValueError(f"{len(x)} rows are no multiple of the group size {self.group_size}")
        normalised = []
        for group in groups:
            statistics = torch.zeros(2, self.num_features, dtype=dtype, device=x.device)
            # With a momentum of 1 the running statistics become the group's own.
            normalised.append(F.batch_norm(group, statistics[0], statistics[1], weight, bias, True, 1.0, self.eps))
            self.seen.append(statistics)
        return normalised[0] if len(normalised) == 1 else torch.cat(normalised)


def norms(model: nn.Module) -> list[GroupedBatchNorm2d]:
    """The model's normalisations of this kind; none in a vision transformer."""
    return [module for module in model.modules() if isinstance(module, GroupedBatchNorm2d)]


@torch.no_grad()
def move_statistics(modules: list[GroupedBatchNorm2d], keep: bool = True) -> None:
    """Move running statistics towards the mean over all groups of a step; without `keep`, forget the step.

    Those of a locked tower have seen none, and stay. All workers must call it at the same time.
    """
    modules = [module for module in modules if module.seen]
    if modules and keep:
        means = torch.cat([torch.stack(module.seen).mean(0).flatten() for module in modules])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(means)
            means /= dist.get_world_size()
        for module, found in zip(modules, means.split([2 * module.num_features for module in modules]), strict=True):
            _move(module, *found.view(2, -1))
    for module in modules:
        module.seen.clear()


def _move(module: GroupedBatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    assert module.momentum is not None
    module.running_mean.lerp_(mean.to(module.running_mean.dtype), module.momentum)
    module.running_var.lerp_(variance.to(module.running_var.dtype), module.momentum)
    module.num_batches_tracked += 1
