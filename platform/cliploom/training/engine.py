"""The DeepSpeed engine behind a small interface: forward, backward, step, and a state by parameter name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cliploom.models.names import SCALARS
from cliploom.models.norm import move_statistics, norms
from cliploom.settings.training import Train
from cliploom.training.groups import parameter_groups
from cliploom.training.state import KINDS, OptimizerState, share

_LARGEST_BUCKET = 5 * 10**7  # DeepSpeed's own 5e8 would take in all gradients, and overlap nothing
_SMALLEST_PARTITIONED = 100_000  # elements; ZeRO-3 leaves smaller parameters whole on every rank


class Engine:
    """A model, its AdamW and their ZeRO partitioning; implements `step.Network`.

    Master weights and moments are fp32 at every stage. With bf16, stages 1 to 3 hold a bf16 copy of the weights for
    compute; stage 0 casts on the fly, since DeepSpeed would keep bf16 weights alone there. Parameters that need no
    gradient stay as they are.

    A process group must be up, and the model the same on all ranks.

    Args:
        model: what is trained; `logit_scale` and `logit_bias` become parameters of shape [1], since ZeRO can't
            partition one without dimensions.
        config: settings of the training.
        smallest_partitioned: elements below which ZeRO-3 doesn't partition a parameter.
    """

    def __init__(self, model: nn.Module, config: Train, smallest_partitioned: int = _SMALLEST_PARTITIONED) -> None:
        import deepspeed
        from deepspeed.ops import __compatible_ops__

        # Its shared-memory collective is compiled at first use, which takes a minute and a compiler.
        __compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
        self._stage = config.zero_stage
        self._max_norm = config.max_gradient_norm
        self._autocast = config.precision == "bf16" and self._stage == 0
        self.dtype = torch.bfloat16 if config.precision == "bf16" and self._stage > 0 else torch.float32
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        )
        for name in SCALARS & dict(model.named_parameters()).keys():
            scalar = model.get_parameter(name)
            setattr(model, name, nn.Parameter(scalar.detach().reshape(1), requires_grad=scalar.requires_grad))
        start = {name: _on_host(parameter) for name, parameter in model.named_parameters()}
        groups = [{**group, "lr": 0.0} for group in parameter_groups(model, config.weight_decay, config.layer_decay)]
        betas = (config.beta1, config.beta2)
        optimizer = torch.optim.AdamW(groups, betas=betas, eps=config.epsilon, fused=True)
        elements = sum(p.numel() for p in model.parameters() if p.requires_grad)
        settings = _deepspeed_config(config, self.dtype, smallest_partitioned, bucket(elements))
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        trained = {name: p for name, p in self._engine.module.named_parameters() if p.requires_grad}
        self._names = {parameter: name for name, parameter in trained.items()}
        self._frozen = {name: value for name, value in start.items() if name not in trained}
        self._scalars = [trained[name] for name in ("logit_scale", "logit_bias") if name in trained]
        self._shapes = {name: value.shape for name, value in start.items()}
        self._state = OptimizerState(self._engine.optimizer, config.zero_stage, self._names)
        self._norms = norms(self._engine.module)
        for norm in self._norms:
            norm.group_size = config.norm_batch_size
            norm.float_statistics()
        if self.dtype != torch.float32:  # DeepSpeed takes its masters from the rounded copy
            for name, parameter in trained.items():
                self._state.write(parameter, "weight", start[name].to(self.device))
        self._refresh_scalars()

    def forward(self, *inputs: object) -> tuple[Tensor, ...]:
        """Of `step.Inputs`: tensors with a row a sample and last the numbers that all samples share; fp32."""
        with torch.autocast(self.device.type, torch.bfloat16) if self._autocast else contextlib.nullcontext():
            output: tuple[Tensor, ...] = self._engine(*inputs)
        return output

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; after the last of a step, gradients are the mean over workers."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip the gradients and take an optimizer step; returns the gradients' norm before clipping.

        Where the norm is not finite, weights, moments and running statistics stay as they are.
        """
        norm = self._step(learning_rate)
        move_statistics(self._norms, keep=math.isfinite(norm))
        self._refresh_scalars()
        return norm

    def skip(self) -> None:
        """Forget what forward passes have left, where no step follows them."""
        move_statistics(self._norms, keep=False)

    def _step(self, learning_rate: float) -> float:
        for group in self._state.adamw.param_groups:
            group["lr"] = learning_rate * group["rate"]
        if self._stage > 0:
            self._engine.step()
            norm = self._engine.get_global_grad_norm()
            return math.nan if norm is None or norm < 0 else float(norm)
        # DeepSpeed's own stage 0 clips without telling the norm, and steps on what is not finite.
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if torch.isfinite(norm):
            if self._max_norm is not None:
                nn.utils.clip_grads_with_norm_(self._engine.module.parameters(), self._max_norm, norm)
            self._state.adamw.step()
        self._engine.zero_grad()
        self._engine.optimizer.zero_grad()
        return float(norm)

    def snapshot(self) -> dict[str, Tensor]:
        """What this worker writes down of the state, copied to the CPU without asking another worker.

        Keys are KIND/NAME@START, values slices of flat tensors, fp32: `weight`, `exp_avg` and `exp_avg_sq` of what is
        trained, `weight` alone of what is not, `buffer` of BatchNorm's statistics. `checkpoint.merge` puts the slices
        of all workers together.
        """
        found = {f"{kind}/{name}@{start}": _on_host(values) for kind, name, start, values in self._state.own()}
        for name, value in self._frozen.items():
            start, stop = share(value.numel())
            if start < stop:  # an empty slice would stand where another worker's begins
                found[f"weight/{name}@{start}"] = value.flatten()[start:stop]
        if dist.get_rank() == 0:
            found |= {f"buffer/{name}@0": _on_host(value).flatten() for name, value in self._buffers().items()}
        return found

    def weights(self) -> dict[str, Tensor]:
        """Master weights and statistics by name, whole, fp32 on the CPU. All workers must call it at the same time."""
        weights = {
            name: _on_host(self._state.whole(parameter)).view(self._shapes[name])
            for parameter, name in self._names.items()
        }
        return weights | self._frozen | {name: _on_host(value) for name, value in self._buffers().items()}

    def load_state(self, state: Mapping[str, Tensor], optimizer_steps: int) -> None:
        """Put back what all workers' snapshots make, of all trained parameters; at any stage and number of workers.

        Args:
            state: flat tensors by KIND/NAME.
            optimizer_steps: steps that AdamW had taken.
        """
        for parameter, name in self._names.items():
            for kind in KINDS:
                self._state.write(parameter, kind, state[f"{kind}/{name}"].to(self.device))
        self._state.set_steps(optimizer_steps)
        for name, buffer in self._buffers().items():
            buffer.copy_(state[f"buffer/{name}"].view_as(buffer))
        self._refresh_scalars()

    def _buffers(self) -> dict[str, Tensor]:
        """The tensors that belong to the weights and are no parameters: equal on all ranks."""
        parameters = {*self._names.values(), *self._frozen}
        state: dict[str, Tensor] = self._engine.module.state_dict()
        return {name: value for name, value in state.items() if name not in parameters}

    def _refresh_scalars(self) -> None:
        """Tell the model its logit scale in fp32: as bf16 it would move in steps of 1.6 %."""
        if self.dtype != torch.float32 and self._scalars:
            self._engine.module.exact_scalars = torch.cat([self._state.whole(scalar) for scalar in self._scalars])


def bucket(elements: int) -> int:
    """Elements that gradients are reduced in, of a model that trains so many."""
    return min(elements, _LARGEST_BUCKET)


def _on_host(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _deepspeed_config(config: Train, dtype: torch.dtype, smallest_partitioned: int, bucket: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    offload = {"offload_optimizer": {"device": "cpu", "pin_memory": cuda}} if config.offload else {}
    return {
        # DeepSpeed only checks these three against each other; how a batch is cut is the step's business.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": dist.get_world_size(),
        "bf16": {"enabled": dtype == torch.bfloat16},
        "gradient_clipping": config.max_gradient_norm or 0.0,
        "steps_per_print": 2**31,
        "zero_optimization": {
            "stage": config.zero_stage,
            "stage3_param_persistence_threshold": smallest_partitioned,
            "reduce_bucket_size": bucket,
            "overlap_comm": cuda,
            **offload,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
