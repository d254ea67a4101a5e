"""What a trial's network is worth at a checkpoint: its loss on held-out pairs, and zero-shot accuracy."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cliploom import objectives, storage
from cliploom.data import vocabulary as vocabularies
from cliploom.data.faults import BadSample
from cliploom.data.plan import WorkItem
from cliploom.data.reader import Reader, Source
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import evaluation_pixels, open_image
from cliploom.errors import InputError
from cliploom.evaluation.datasets import open_dataset, samples
from cliploom.evaluation.suite import Entry
from cliploom.models import normalize_pixels
from cliploom.objectives import Ranks
from cliploom.settings.search import Tune
from cliploom.training.run import Run

_IMAGES_AT_ONCE = 50


@dataclass(frozen=True)
class HeldOut:
    """The same held-out pairs for every trial: batches of one size, since a contrastive loss depends on that.

    Args:
        source: what they are read from, at a trial's resolution.
        batch: pairs a batch.
        batches: how many.
    """

    source: Source
    batch: int
    batches: int

    @torch.no_grad()
    def loss(self, network: nn.Module, objective: str) -> float:
        """The mean of the objective's loss over the batches, of a network in evaluation mode."""
        reader, total = Reader(self.source), 0.0
        for number in range(self.batches):
            start = number * self.batch
            batch = reader.read(WorkItem(number, 0, 0, start, start + self.batch, self.batch))
            tokens = torch.from_numpy(batch.tokens)
            tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1]
            pixels = normalize_pixels(torch.from_numpy(batch.pixels), torch.float32)
            *rows, shared = network(pixels, tokens)
            total += float(objectives.objective(objective).loss(rows, shared, Ranks([self.batch])).value)
        return total / self.batches


def held_out(run: Run, uri: str, settings: Tune) -> HeldOut:
    """The held-out pairs of the manifest `uri` for a trial.

    Raises:
        InputError: they are fewer than the batches take.
    """
    from cliploom.data import mixture as mixtures
    from cliploom.settings.data import Data

    pairs = mixtures.choose(Data(manifest=uri))
    pairs.check()
    there = sum(shard.samples for shard in pairs.shards)
    if settings.held_out_batch * settings.held_out_batches > there:
        raise InputError(
            f"{uri} has {there} pairs, fewer than {settings.held_out_batches} batches of {settings.held_out_batch}: "
            "lower tune.held_out_batches, or hold more out"
        )
    source = replace(
        run.stream.source,
        data=pairs.recipe,
        fingerprint=pairs.fingerprint,
        seed=0,  # whatever the trial's
        crop_scale=(1.0, 1.0),
    )
    return HeldOut(source, settings.held_out_batch, settings.held_out_batches)


@torch.no_grad()
def zeroshot(network: nn.Module, run: Run, uri: str, most: int) -> float:
    """Top-1 accuracy on the first images of a classification set, with the first of its prompts.

    One prompt a class, since a language model has to read each of them with each image.

    Raises:
        InputError: there is no such set.
    """
    dataset = open_dataset(Entry(dataset=uri, name="zeroshot", tasks=("zeroshot_classification",)), ".")
    source = run.stream.source
    words = vocabularies.load(source.vocabulary, source.vocabulary_digest)
    prompts = [dataset.templates[0].replace("{c}", name) for name in dataset.classnames]
    tokens = Tokenizer(vocabulary=words)(prompts)
    pixels, labels = [], []
    for sample in itertools.islice((one for shard in dataset.shards for one in samples(shard.uri)), most):
        try:
            pixels.append(torch.from_numpy(evaluation_pixels(open_image(sample.image or b""), run.model.image_size)))
        except BadSample:
            continue
        labels.append(int(sample.label or b"-1"))
    right = [_right(network, part, tokens) for part in torch.stack(pixels).split(_IMAGES_AT_ONCE)]
    return float((torch.cat(right) == torch.tensor(labels)).float().mean())


def _right(network: nn.Module, pixels: Tensor, tokens: Tensor) -> Tensor:
    """The class of each image, int64 [B]."""
    return objectives.score(network, normalize_pixels(pixels, torch.float32), tokens).argmax(1)


def checkpoint_state(run: Run, step: int) -> dict[str, Tensor]:
    """The state of the run's checkpoint after `step` steps.

    Raises:
        RuntimeError: it is not there.
    """
    from cliploom.training import checkpoint

    for found in checkpoint.committed(run.folder):
        if found.progress.step == step:
            return found.load()
    raise RuntimeError(f"{storage.join(run.folder, 'checkpoints')} has none of step {step}")
