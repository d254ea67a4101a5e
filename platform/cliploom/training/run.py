"""What a run is, worked out and checked before anything is started for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cliploom import objectives, storage
from cliploom.config import Config, check_same, require
from cliploom.data import mixture as mixtures
from cliploom.data import vocabulary as vocabularies
from cliploom.data.plan import micro_batches
from cliploom.data.reader import Source, plan_of
from cliploom.data.stream import Stream
from cliploom.errors import InputError
from cliploom.models import CLIP, ModelConfig, preset
from cliploom.models.compound import compound
from cliploom.training import checkpoint, ngrams

_EXPORTED = "exported.json"


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
    def kept_patches(self) -> int | None:
        """Patches of each image that training sees; None where it sees all."""
        dropped = self.config.model.patch_dropout
        return max(1, round(self.model.grid_size**2 * (1 - dropped))) if dropped else None

    @property
    def makes_clip(self) -> bool:
        """Whether what is trained embeds images and texts."""
        return objectives.objective(self.config.objective.name).network is CLIP

    @property
    def export(self) -> str:
        """URI of the folder that gets the trained weights."""
        return storage.join(self.folder, "export")


def plan_run(config: Config, start: ModelConfig | None = None) -> Run:
    """Work out the run that `config` means.

    Args:
        config: of the job.
        start: geometry of the weights that it starts from (`config.model.weights`), if any.

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
    if train.offload and train.zero_stage == 0:
        raise InputError("train.offload needs a part of the state for each worker: set train.zero_stage to 1, 2 or 3")
    model = model_config(config, start)
    vocabulary = vocabularies.load(config.data.vocabulary)
    if model.vocab_size != vocabulary.size:
        raise InputError(
            f"model.weights={config.model.weights} has {model.vocab_size} token ids, the vocabulary has "
            f"{vocabulary.size}: set data.vocabulary to the file that the weights were trained with"
        )
    table = ngrams.read(config, model.vocab_size)
    folder = run_folder(config)
    mixture = mixtures.choose(config.data)
    mixture.check()
    source = Source(
        mixture.recipe,
        mixture.fingerprint,
        train.seed,
        config.data.window_shards,
        model.image_size,
        config.data.crop_scale,
        storage.absolute(config.data.vocabulary) if config.data.vocabulary else None,
        vocabulary.digest,
    )
    steps = _steps(config, plan_of(mixture, source).samples)
    run = Run(
        folder=folder,
        config=config,
        model=model,
        stream=Stream(
            source, steps, train.global_batch_size, train.micro_batch_size, config.data.cpus_per_task, config.data.pool
        ),
        settings={
            "data.manifest": mixture.fingerprint,
            "data.window_shards": config.data.window_shards,
            "data.vocabulary": vocabulary.digest,
            "model.name": config.model.name,
            "model.factor": config.model.factor,
            "model.weights": config.model.weights,
            "model.activation": model.activation,
            "model.patch_dropout": config.model.patch_dropout,
            "objective.name": config.objective.name,
            **({} if table is None else {"objective.ngrams": ngrams.digest(table)}),
            "train.lock": train.lock,
            "train.global_batch_size": train.global_batch_size,
            "train.seed": train.seed,
            **({"train.norm_batch_size": train.norm_batch_size} if model.is_resnet else {}),
        },
    )
    _check_norm_groups(run)
    return run


def run_folder(config: Config) -> str:
    """URI of the folder that holds all of a run."""
    return storage.join(storage.absolute(config.run.storage), str(config.run.name))


def model_config(config: Config, start: ModelConfig | None) -> ModelConfig:
    """The geometry of the network that is trained.

    Raises:
        InputError: the settings of the model and of the objective don't go together.
    """
    wanted = config.model
    vocabulary = vocabularies.load(config.data.vocabulary)
    if start and wanted.factor != 1:
        raise InputError(f"model.weights={wanted.weights} has its size: leave model.factor out")
    base = preset(wanted.name)
    model = start or replace(base if wanted.factor == 1 else compound(base, wanted.factor), vocab_size=vocabulary.size)
    if start and wanted.activation not in (None, start.activation):
        raise InputError(f"model.weights={wanted.weights} has {start.activation}: leave model.activation out")
    if wanted.activation:
        model = replace(model, activation=wanted.activation)
    objective = objectives.objective(config.objective.name)
    if wanted.patch_dropout and model.is_resnet:
        raise InputError(f"model.patch_dropout needs a vision transformer, which {wanted.name} is not")
    if config.train.lock != "none" and not wanted.weights:
        raise InputError(f"train.lock={config.train.lock} needs weights to keep: give model.weights")
    if wanted.weights and objective.network is not CLIP:
        raise InputError(f"objective.name={config.objective.name} trains no CLIP: leave model.weights out")
    return objective.geometry(model)


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
    """Whether the run has been trained to its end and its weights of then are exported."""
    found = checkpoint.committed(run.folder)
    return bool(found) and found[0].progress.step == run.steps == _exported(run)


def note_export(run: Run) -> None:
    """Write down that the exported weights are those of the run's end; a run may be made longer later."""
    record = {"format_version": 1, "step": run.steps}
    storage.write(storage.join(run.folder, _EXPORTED), (json.dumps(record) + "\n").encode())


def _exported(run: Run) -> int | None:
    """The step whose weights are exported."""
    try:
        return int(json.loads(storage.read(storage.join(run.folder, _EXPORTED)))["step"])
    except FileNotFoundError:
        return None


def _check_norm_groups(run: Run) -> None:
    """A ResNet's BatchNorm groups must not be cut by a worker or a micro-batch."""
    train = run.config.train
    low, high = workers_range(run.config)
    moves = run.model.is_resnet and train.lock != "image"
    for workers in range(low, high + 1) if moves else ():
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
    if not found:
        return
    if (done := found[0].progress).step > run.steps:
        raise InputError(
            f"run {run.config.run.name} has been trained on {done.samples:,} samples, more than the "
            f"{run.steps * run.stream.global_batch_size:,} asked for now: set train.samples or train.epochs as "
            "they were, or give a new run.name"
        )
    begun = {"model.factor": 1, **done.settings}  # of factor 1 the oldest say nothing
    check_same(f"run {run.config.run.name}", begun, run.settings)
