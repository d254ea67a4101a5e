"""The DeepSpeed engine behind a small interface: forward, backward, step, and a state by parameter name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from cliploom.config import Train
from cliploom.models.names import SCALARS
from cliploom.models.norm import move_statistics, norms
from cliploom.training.groups import parameter_groups

MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("weight", *MOMENTS)
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
        settings = _deepspeed_config(config, self.dtype, smallest_partitioned)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        trained = {name: p for name, p in self._engine.module.named_parameters() if p.requires_grad}
        self._names = {parameter: name for name, parameter in trained.items()}
        self._frozen = {name: value for name, value in start.items() if name not in trained}
        self._scalars = [trained[name] for name in ("logit_scale", "logit_bias") if name in trained]
        self._state = _State(self._engine.optimizer, config.zero_stage, self._names)
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

    def state(self, mine: Callable[[str], bool]) -> dict[str, Tensor]:
        """Master weights and moments of the parameters that `mine` picks by name, whole, fp32 on the CPU.

        Keys are `weight/NAME`, `exp_avg/NAME` and `exp_avg_sq/NAME`; `weight/NAME` alone of parameters that are not
        trained; and `buffer/NAME` of BatchNorm's statistics. All ranks must call it at the same time.
        """
        buffers = {f"buffer/{name}": _on_host(value) for name, value in self._buffers().items() if mine(name)}
        frozen = {f"weight/{name}": value for name, value in self._frozen.items() if mine(name)}
        return self._read(mine, KINDS) | frozen | buffers

    def weights(self) -> dict[str, Tensor]:
        """Master weights and statistics by name, whole, fp32 on the CPU; empty but on rank 0."""
        found = self._read(lambda _: dist.get_rank() == 0, ("weight",))
        weights = {key.removeprefix("weight/"): value for key, value in found.items()}
        if weights:
            weights |= self._frozen
            weights |= {name: _on_host(value) for name, value in self._buffers().items()}
        return weights

    def load_state(self, state: Mapping[str, Tensor], optimizer_steps: int) -> None:
        """Put back what `state` gave, of all trained parameters; at any number of workers and any stage."""
        for parameter, name in self._names.items():
            for kind in KINDS:
                self._state.write(parameter, kind, state[f"{kind}/{name}"].to(self.device))
        self._state.set_steps(optimizer_steps)
        for name, buffer in self._buffers().items():
            buffer.copy_(state[f"buffer/{name}"])
        self._refresh_scalars()

    def parameters(self) -> dict[str, int]:
        """Elements of each parameter and buffer by name."""
        sizes = {name: math.prod(self._state.shape(parameter)) for parameter, name in self._names.items()}
        sizes |= {name: value.numel() for name, value in self._frozen.items()}
        return sizes | {name: buffer.numel() for name, buffer in self._buffers().items()}

    def _buffers(self) -> dict[str, Tensor]:
        """The tensors that belong to the weights and are no parameters: equal on all ranks."""
        parameters = {*self._names.values(), *self._frozen}
        state: dict[str, Tensor] = self._engine.module.state_dict()
        return {name: value for name, value in state.items() if name not in parameters}

    def _refresh_scalars(self) -> None:
        """Tell the model its logit scale in fp32: as bf16 it would move in steps of 1.6 %."""
        if self.dtype != torch.float32 and self._scalars:
            masters = [value for p in self._scalars for _, value in self._state.read(p, ("weight",))]
            self._engine.module.exact_scalars = torch.cat(masters).to(self.device, torch.float32)

    def _read(self, mine: Callable[[str], bool], kinds: tuple[str, ...]) -> dict[str, Tensor]:
        found = {}
        for parameter, name in self._names.items():
            for kind, value in self._state.read(parameter, kinds):
                if mine(name):
                    found[f"{kind}/{name}"] = value.to("cpu", torch.float32, copy=True)
        return found


def _on_host(value: Tensor) -> Tensor:
    return value.to("cpu", copy=True)


class _State:
    """Master weights and AdamW moments of an engine: whole tensors in and out, wherever ZeRO keeps them.

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

    def set_steps(self, steps: int) -> None:
        """Say how many optimizer steps were taken, by which AdamW corrects its moments' bias."""
        for master in self._masters():
            self.adamw.state[master]["step"].fill_(steps)

    def _write_partition(self, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        """Stage 3: this rank's slice of the flat tensor. DeepSpeed's own setter of whole tensors fails where the
        size does not divide by the number of ranks."""
        from deepspeed import utils

        partition: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
        size = partition.numel()
        padded = F.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
        own = padded[size * dist.get_rank() :][:size]
        if kind == "weight":
            utils.safe_set_local_fp32_param(parameter, own)
            partition.data.copy_(own)
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


def _deepspeed_config(config: Train, dtype: torch.dtype, smallest_partitioned: int) -> dict[str, Any]:
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
            "overlap_comm": torch.cuda.is_available(),
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
