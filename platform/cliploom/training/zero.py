"""Where DeepSpeed's optimizers keep master weights and moments at each ZeRO stage; whole tensors in and out.

The state is by parameter name and of whole tensors, so that what was saved at one number of workers and one stage is
loaded at any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("weight", *MOMENTS)


class State:
    """Master weights and AdamW moments of an engine.

    Args:
        optimizer: DeepSpeed's wrapper of AdamW, or at stage 0 AdamW itself.
        stage: ZeRO stage.
        names: names of the model's parameters.
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

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """The whole shape of a parameter that may be partitioned."""
        shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
        return shape

    def read(self, parameter: nn.Parameter, kinds: tuple[str, ...] = KINDS) -> Iterator[tuple[str, Tensor]]:
        """(kind, whole fp32 tensor) of one parameter. All ranks must read the same at the same time."""
        from deepspeed import utils

        for kind in kinds:
            if self._stage == 0:
                value = parameter.detach() if kind == "weight" else self.adamw.state[parameter][kind]
            elif kind == "weight":
                value = utils.safe_get_full_fp32_param(parameter)
            else:
                value = utils.safe_get_full_optimizer_state(parameter, kind)
            yield kind, value.detach().reshape(self.shape(parameter))

    def write(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        """Set one parameter's master weight (and the copy that computes) or a moment from the whole tensor."""
        from deepspeed import utils

        if self._stage == 0:
            (parameter.data if kind == "weight" else self.adamw.state[parameter][kind]).copy_(value)
        elif self._stage == 3:
            self._write_partition(parameter, kind, value)
        elif kind == "weight":
            utils.safe_set_full_fp32_param(parameter, value)
            parameter.data.copy_(value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, kind)

    @property
    def steps(self) -> int:
        """Optimizer steps taken, by which AdamW corrects its moments' bias."""
        return max(int(self.adamw.state[master]["step"]) for master in self._masters())

    @steps.setter
    def steps(self, steps: int) -> None:
        for master in self._masters():
            self.adamw.state[master]["step"].fill_(steps)

    def _write_partition(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        """Stage 3: this rank's slice of the flat tensor. DeepSpeed's own setter of whole tensors fails where the
        size does not divide by the number of ranks."""
        from deepspeed import utils

        size = parameter.ds_tensor.numel()
        padded = F.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
        own = padded[size * dist.get_rank() :][:size]
        if kind == "weight":
            utils.safe_set_local_fp32_param(parameter, own)
            parameter.ds_tensor.data.copy_(own)
        else:
            utils.safe_set_local_optimizer_state(parameter, own, kind)

    def _masters(self) -> list[Tensor]:
        """The tensors that AdamW steps on: flat partitions from stage 1 on."""
        match self._stage:
            case 0:
                return list(self._names)
            case 3:
                return list(self._optimizer.fp32_partitioned_groups_flat)
            case _:
                return list(self._optimizer.single_partition_of_fp32_groups)
