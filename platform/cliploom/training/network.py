"""The network that a worker trains: random, or from the weights that the run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from cliploom import objectives, storage
from cliploom.models import CLIP, checkpoint_activations, compile_blocks, weights
from cliploom.training import ngrams
from cliploom.training.run import Run


def build(run: Run, state: Mapping[str, Tensor] | None) -> nn.Module:
    """The run's network, ready for an engine; the same on all workers.

    Args:
        run: what is trained.
        state: of the checkpoint that an attempt goes on from (`Engine.state`); without one, the run's start.
    """
    settings = run.config.train
    table = ngrams.read(run.config, run.model.vocab_size, run.settings.get("objective.ngrams"))
    network = objectives.create(run.config.objective.name, run.model, settings.seed, table)
    if state is not None:
        kinds = ("weight/", "buffer/")
        own = {key.split("/", 1)[1]: value for key, value in state.items() if key.startswith(kinds)}
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        network.load_state_dict({name: value.reshape(shapes[name]) for name, value in own.items()})
    elif start := read_start(run.folder):
        network.load_state_dict(start.state_dict())
    lock(network, settings.lock)
    if settings.activation_checkpointing:
        checkpoint_activations(network)
    if settings.compile:
        compile_blocks(network)
    return network


def lock(network: nn.Module, tower: str) -> None:
    """Leave a tower of a CLIP model as it is, as `train.lock` names it."""
    if isinstance(network, CLIP):
        match tower:
            case "image":
                network.lock_image()
            case "text":
                network.lock_text()


def read_start(folder: str) -> CLIP | None:
    """The weights that the run in `folder` starts from; None where it has no copy of them."""
    if not storage.exists(storage.join(folder, "start", weights.WEIGHTS)):
        return None
    with TemporaryDirectory() as local:
        for file in storage.files(storage.join(folder, "start")):
            storage.download(file.uri, Path(local, storage.name(file.uri)))
        return weights.load(Path(local))


def write_start(folder: str, model: CLIP) -> None:
    """Give the run in `folder` its own copy of the weights that it starts from, so that theirs may go."""
    if storage.exists(storage.join(folder, "start", weights.WEIGHTS)):
        return
    with TemporaryDirectory() as local:
        weights.save(model, Path(local))
        for name in (weights.CONFIG, weights.WEIGHTS):  # by the weights it is there, so they come last
            storage.upload(Path(local, name), storage.join(folder, "start", name))
