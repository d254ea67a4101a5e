"""What a run is, worked out and checked before anything is started for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cliploom import storage
from cliploom.config import Config, require
from cliploom.data import manifest as manifests
from cliploom.data.plan import micro_batches
from cliploom.data.reader import Source
from cliploom.data.stream import Stream
from cliploom.errors import InputError
from cliploom.models import ModelConfig, preset
from cliploom.training import checkpoint


@dataclass(frozen=True)
class Run:
    """A training run."""

    folder: str  # URI
    config: Config
    model: ModelConfig
    stream: Stream
    settings: Mapping[str, Any]  # what must stay as it is when the run goes on

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.stream.steps

    @property
    def warmup_steps(self) -> int:
        """Steps of learning-rate warm-up."""
        return -(-self.config.train.warmup_samples // self.config.train.global_batch_size)

    @property
    def export(self) -> str:
        """URI of the folder that gets the trained weights."""
        return storage.join(self.folder, "export")


def plan_run(config: Config) -> Run:
    """Work out the run that `config` means.

    Raises:
        InputError: the settings don't make one.
    """
    require(config, "run.name", "data.manifest")
    train = config.train
    most = workers_range(config)[1]
    if train.global_batch_size < most:
        raise InputError(
            f"train.global_batch_size={train.global_batch_size} is smaller than the number of workers, {most}: "
            "raise it, or lower train.workers"
        )
    model = preset(config.model.name)
    folder = storage.join(storage.absolute(config.run.storage), str(config.run.name))
    manifest = manifests.load(str(config.data.manifest))
    manifest.check()
    source = Source(
        manifest.uri,
        manifest.fingerprint,
        train.seed,
        config.data.window_shards,
        model.image_size,
        config.data.crop_scale,
    )
    steps = _steps(config, manifest.samples)
    run = Run(
        folder=folder,
        config=config,
        model=model,
        stream=Stream(source, steps, train.global_batch_size, train.micro_batch_size, config.data.cpus_per_task),
        settings={
            "data.manifest": manifest.fingerprint,
            "data.window_shards": config.data.window_shards,
            "model.name": config.model.name,
            "objective.name": config.objective.name,
            "train.global_batch_size": train.global_batch_size,
            "train.seed": train.seed,
            **({"train.norm_batch_size": train.norm_batch_size} if model.is_resnet else {}),
        },
    )
    _check_norm_groups(run)
    return run


def workers_range(config: Config) -> tuple[int, int]:
    """The fewest and the most workers.

    Raises:
        InputError: the fewest are more than the most.
    """
    workers = config.train.workers
    low, high = workers if isinstance(workers, tuple) else (workers, workers)
    if low > high:
        raise InputError(f"train.workers=[{low}, {high}]: write the smaller number first")
    return low, high


def is_complete(run: Run) -> bool:
    """Whether the run has been trained to its end and its weights are exported."""
    found = checkpoint.committed(run.folder)
    done = bool(found) and found[0].progress.step >= run.steps
    return done and storage.exists(storage.join(run.export, "weights.safetensors"))


def _check_norm_groups(run: Run) -> None:
    """A ResNet's BatchNorm groups must not be cut by a worker or a micro-batch."""
    train = run.config.train
    low, high = workers_range(run.config)
    for workers in range(low, high + 1) if run.model.is_resnet else ():
        _, rows = micro_batches(train.global_batch_size, workers, train.micro_batch_size)
        if train.global_batch_size % (workers * rows) or rows % train.norm_batch_size:
            raise InputError(
                f"{workers} workers cut train.global_batch_size={train.global_batch_size} into micro-batches of "
                f"{rows}, which train.norm_batch_size={train.norm_batch_size} does not divide: choose sizes that do"
            )


def _steps(config: Config, samples: int) -> int:
    train = config.train
    if (train.samples is None) == (train.epochs is None):
        raise InputError("give either train.samples or train.epochs")
    if samples == 0:
        raise InputError(f"{config.data.manifest} holds no samples")
    wanted = train.samples if train.samples is not None else round((train.epochs or 0) * samples)
    steps = wanted // train.global_batch_size
    if steps == 0:
        raise InputError(f"{wanted} samples make no global batch of {train.global_batch_size}: train on more of them")
    return steps


def check_goes_on(run: Run) -> None:
    """Check that a run of this name that was begun before can go on with these settings.

    Raises:
        InputError: it was begun with others; names the first.
    """
    found = checkpoint.committed(run.folder)
    for key, value in (found[0].progress.settings if found else {}).items():
        if run.settings.get(key) != value:
            raise InputError(
                f"run {run.config.run.name} was begun with {key}={value}, not {run.settings.get(key)}: "
                "set that again, or give a new run.name"
            )
