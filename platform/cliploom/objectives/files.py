"""Networks of any objective on disk: folders of `weights.safetensors` and `config.json`, as those of CLIP.

The config of a network that is no CLIP names its objective too; `cliploom.models.weights` refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from cliploom.errors import InputError
from cliploom.models import CLIP, ModelConfig, sidecar, weights
from cliploom.models.archive import read_tensors
from cliploom.models.shapes import check_shapes
from cliploom.objectives.objective import create, objective


def save_state(name: str, state: Mapping[str, Tensor], config: ModelConfig, folder: Path) -> None:
    """Write a network's state dict as `load` reads it; whole files, each over what was there.

    Args:
        name: of the objective.
        state: the state dict.
        config: the network's.
        folder: where to.
    """
    weights.save_state(state, config, folder, None if objective(name).network is CLIP else name)


def load(folder: Path) -> nn.Module:
    """The network in a folder, of whatever objective, in fp32 on the CPU; its `config` is the geometry.

    Raises:
        InputError: the folder holds none, or it is damaged or of an unknown format version.
    """
    config = sidecar.read_config(folder)
    name = config.get("objective")
    if name is None:
        return weights.load(folder)
    state = read_tensors(folder / weights.WEIGHTS)
    try:
        geometry = ModelConfig.from_dict(config.get("model") or {})
        network = create(name, geometry, 0, state.get("ngrams"))
        check_shapes(state, network.state_dict())
    except InputError as error:
        raise InputError(f"the weights in {folder} do not fit: {error}") from None
    network.load_state_dict(state)
    return network
