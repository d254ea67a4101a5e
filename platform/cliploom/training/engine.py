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
from cliploom.models.norm import move_statistics, norms

MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = ("weight", *MOMENTS)
_SMALLEST_PARTITIONED = 100_000  # elements; ZeRO-3 leaves smaller parameters whole on every rank


class Engine:
    """A model, its AdamW and their ZeRO partitioning; implements `step.Network`.

    Master weights and moments are fp32 at every stage. With bf16, stages 1 to 3 hold a bf16 copy of the weights for
    compute; stage 0 casts on the fly, since DeepSpeed would keep bf16 weights alone there.

    A process group must be up. Weights in `model` count on rank 0 and are broadcast.

    Args:
        model: with an image, token and logit scale forward; its `logit_scale` becomes a parameter of shape [1], since
            ZeRO can't partition one without dimensions.
        config: settings of the training.
        smallest_partitioned: elements below which ZeRO-3 doesn't partition a parameter.
    """

    def __init__(self, model: nn.Module, config: Train, smallest_partitioned: int = _SMALLEST_PARTITIONED) -> None:
        import deepspeed
        from deepspeed.ops import __compatible_ops__

        # Its shared-memory collective is compiled at first use, which takes a minute and a compiler.
        __compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
        assert isinstance(model.logit_scale, nn.Parameter)
        model.logit_scale = nn.Parameter(model.logit_scale.detach().reshape(1))
        self._stage = config.zero_stage
        self._max_norm = config.max_gradient_norm
        self._autocast = config.precision == "bf16" and self._stage == 0
        self.dtype = torch.bfloat16 if config.precision == "bf16" and self._stage > 0 else torch.float32
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        )
        groups = [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (config.beta1, config.beta2)
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.epsilon, fused=True)
        settings = _deepspeed_config(config, self.dtype, smallest_partitioned)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        self._names = {parameter: name for name, parameter in self._engine.module.named_parameters()}
        self._state = _State(self._engine.optimizer, config.zero_stage, self._names)
        self._norms = norms(self._engine.module)
        for norm in self._norms:
            norm.group_size = config.norm_batch_size
            norm.float_statistics()

    def forward(self, images: Tensor, tokens: list[Tensor], restore: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(image features [m, D], text features [m, D], logit scale [1]); fp32."""
        with torch.autocast(self.device.type, torch.bfloat16) if self._autocast else contextlib.nullcontext():
            output: tuple[Tensor, Tensor, Tensor] = self._engine(images, tokens, restore)
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
        return norm

    def skip(self) -> None:
        """Forget what forward passes have left, where no step follows them."""
        move_statistics(self._norms, keep=False)

    def _step(self, learning_rate: float) -> float:
        for group in self._state.adamw.param_groups:
            group["lr"] = learning_rate
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

        Keys are `weight/NAME`, `exp_avg/NAME` and `exp_avg_sq/NAME`; and `buffer/NAME` of BatchNorm's statistics. All
        ranks must call it at the same time.
        """
        buffers = {f"buffer/{name}": _on_host(value) for name, value in self._buffers().items() if mine(name)}
        return self._read(mine, KINDS) | buffers

    def weights(self) -> dict[str, Tensor]:
        """Master weights by name, whole, fp32 on the CPU, with `logit_scale` of shape []; empty but on rank 0."""
        found = self._read(lambda _: dist.get_rank() == 0, ("weight",))
        weights = {key.removeprefix("weight/"): value for key, value in found.items()}
        if weights:
            weights["logit_scale"] = weights["logit_scale"].reshape(())
            weights |= {name: _on_host(value) for name, value in self._buffers().items()}
        return weights

    def load_state(self, state: Mapping[str, Tensor], optimizer_steps: int) -> None:
        """Put back what `state` gave, of all parameters; at any number of workers and any stage."""
        for parameter, name in self._names.items():
            for kind in KINDS:
                self._state.write(parameter, kind, state[f"{kind}/{name}"].to(self.device))
        self._state.set_steps(optimizer_steps)
        for name, buffer in self._buffers().items():
            buffer.copy_(state[f"buffer/{name}"])

    def parameters(self) -> dict[str, int]:
        """Elements of each parameter and buffer by name, in the model's order."""
        sizes = {name: math.prod(self._state.shape(parameter)) for parameter, name in self._names.items()}
        return sizes | {name: buffer.numel() for name, buffer in self._buffers().items()}

    def _buffers(self) -> dict[str, Tensor]:
        """The tensors that belong to the weights and are not learned by gradients: equal on all ranks."""
        parameters = set(self._names.values())
        state: dict[str, Tensor] = self._engine.module.state_dict()
        return {name: value for name, value in state.items() if name not in parameters}

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
