"""An optimizer's state by parameter name, wherever ZeRO keeps it, in slices that a worker holds itself.

A slice is a run of a parameter's elements in their order. A worker's slices are copied without asking another worker;
those of all workers make the whole, which can be put back at any number of workers and any ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("weight", *MOMENTS)


class Slice(NamedTuple):
    """Part of one parameter's master weight or moment."""

    kind: str
    name: str
    start: int  # of its elements in the parameter's
    values: Tensor  # [n], a view of what the optimizer works on


def share(elements: int) -> tuple[int, int]:
    """The part [start, stop) of what all workers hold alike that this one writes down."""
    world, rank = dist.get_world_size(), dist.get_rank()
    return rank * elements // world, (rank + 1) * elements // world


class OptimizerState:
    """Master weights and AdamW moments of an engine.

    Args:
        optimizer: DeepSpeed's wrapper of AdamW, or at stage 0 AdamW itself.
        stage: ZeRO stage.
        names: names of the trained parameters.
    """

    def __init__(self, optimizer: Any, stage: int, names: Mapping[nn.Parameter, str]) -> None:
        self._optimizer, self._stage, self._names = optimizer, stage, names
        self.adamw: torch.optim.Optimizer = optimizer if stage == 0 else optimizer.optimizer
        # AdamW makes its moments at the first step; loading and saving need them before.
        for master in self._masters():
            moments = {kind: torch.zeros_like(master) for kind in MOMENTS}
            self.adamw.state[master] = {"step": torch.tensor(0.0, device=master.device), **moments}
        if stage in (1, 2):
            optimizer._lazy_init_hp_params_optimizer_state()

    def own(self) -> Iterator[Slice]:
        """What falls to this worker to write down: over all workers every element once."""
        for parameter, name in self._names.items():
            for kind in KINDS:
                for start, values in self._held(parameter, kind):
                    first, last = share(len(values)) if self._stage == 0 else (0, len(values))
                    if first < last:
                        yield Slice(kind, name, start + first, values[first:last])

    def whole(self, parameter: nn.Parameter, kind: str = "weight") -> Tensor:
        """All elements, fp32 [n]. All workers must ask for the same at the same time."""
        held = list(self._held(parameter, kind))
        if self._stage == 0:
            return held[0][1].float()
        found = torch.zeros(self.elements(parameter), device=parameter.device)
        for start, values in held:
            found[start : start + len(values)] = values
        dist.all_reduce(found)
        return found

    def elements(self, parameter: nn.Parameter) -> int:
        """Of a parameter that may be partitioned."""
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    def write(self, parameter: nn.Parameter, kind: str, values: Tensor) -> None:
        """Set one parameter's master weight (and the copy that computes) or a moment from all its elements."""
        flat = values.flatten()
        for start, held in self._held(parameter, kind):
            held.copy_(flat[start : start + len(held)])
        if kind == "weight" and self._stage == 3:
            partition: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
            partition.data.copy_(_padded_part(flat, partition.numel()))
        elif kind == "weight" and self._stage > 0:
            parameter.data.copy_(flat.view_as(parameter))

    def set_steps(self, steps: int) -> None:
        """Say how many optimizer steps were taken, by which AdamW corrects its moments' bias."""
        for master in self._masters():
            self.adamw.state[master]["step"].fill_(steps)

    def _held(self, parameter: nn.Parameter, kind: str) -> Iterator[tuple[int, Tensor]]:
        """(start, view) of the elements that this worker's optimizer works on; at most one."""
        key = None if kind == "weight" else kind
        match self._stage:
            case 0:
                values = parameter.detach() if key is None else self.adamw.state[parameter][key]
                yield 0, values.view(-1)
            case 3:
                partition, _ = self._optimizer._get_fp32_opt_state_partition(parameter, True, key)
                start = dist.get_rank() * partition.numel()
                values = partition.detach().view(-1)[: max(0, self.elements(parameter) - start)]
                if len(values):
                    yield start, values
            case _:
                mapping = parameter._hp_mapping  # type: ignore[attr-defined]
                if mapping is not None:
                    yield mapping.lp_fragment_address.start, mapping.get_hp_fragment(key).detach()

    def _masters(self) -> list[Tensor]:
        """The tensors that AdamW steps on: flat partitions from stage 1 on."""
        match self._stage:
            case 0:
                return list(self._names)
            case 3:
                return list(self._optimizer.fp32_partitioned_groups_flat)
            case _:
                return list(self._optimizer.single_partition_of_fp32_groups)


def _padded_part(flat: Tensor, size: int) -> Tensor:
    """This worker's `size` elements of a tensor that is padded to as many for each."""
    padded = F.pad(flat, (0, size * dist.get_world_size() - flat.numel()))
    return padded[size * dist.get_rank() :][:size]
