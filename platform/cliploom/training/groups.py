"""Which parameters AdamW treats alike: weight decay, and a rate that falls with the distance from the output."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_BLOCK = re.compile(r"(resblocks|blocks|layer\d)\.(\d+)\.")
_BEFORE_BLOCKS = re.compile(r"(conv\d|bn\d|class_embedding|positional_embedding|ln_pre|token_embedding)\b")


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """The trained parameters in groups, each with its `weight_decay` and `rate`, a factor on the learning rate.

    Gains, biases and single numbers do not decay (Radford et al. 2021, 2.5). The rate is 1 behind a tower's last block,
    and `layer_decay` times smaller with each block before it (Clark et al. 2020, "ELECTRA").
    """
    positions = {name: _position(name) for name, p in model.named_parameters() if p.requires_grad}
    blocks: dict[str, list[tuple[str, int]]] = {}
    for name, position in positions.items():
        if position and position[1] >= 0:
            blocks.setdefault(_tower(name), []).append(position)
    order = {tower: sorted(set(found)) for tower, found in blocks.items()}
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = layer_decay ** _blocks_behind(positions[name], order.get(_tower(name), []))
        decays = parameter.ndim >= 2
        group = {"params": [], "weight_decay": weight_decay if decays else 0.0, "rate": rate}
        groups.setdefault((decays, rate), group)["params"].append(parameter)
    return list(groups.values())


def _tower(name: str) -> str:
    return "image" if name.startswith("visual.") else "text"


def _position(name: str) -> tuple[str, int] | None:
    """(stack, number) of the block that a parameter is in; number -1 before the blocks, None behind them."""
    if block := _BLOCK.search(name):
        return block[1], int(block[2])
    inner = name.removeprefix("visual.")
    return ("", -1) if _BEFORE_BLOCKS.match(inner) else None


def _blocks_behind(position: tuple[str, int] | None, blocks: list[tuple[str, int]]) -> int:
    """How many steps of decay a parameter is away from the tower's output."""
    if position is None:
        return 0
    return len(blocks) + 1 if position[1] < 0 else len(blocks) - blocks.index(position)
