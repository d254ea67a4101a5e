"""Features of all shards and class names of a suite, by Ray Data: one pipeline, whatever the number of data sets.

Two stages run at once: tasks that stream shards and decode them, one a shard and as many as there are free CPUs, and a
pool of actors that holds the model. A shard's features are kept as soon as its last batch is there, so that a job that
was stopped goes on from the shards that it had finished.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from cliploom import allocator, pools, storage
from cliploom.errors import InputError
from cliploom.evaluation.datasets import Sample, Shard, samples
from cliploom.evaluation.model import Model
from cliploom.evaluation.store import Features, concatenate
from cliploom.settings.base import Precision
from cliploom.settings.evaluation import Workers

if TYPE_CHECKING:
    from cliploom.evaluation.preparing import Batch

T = TypeVar("T")


class Prompts(NamedTuple):
    """Class names, and the templates that make prompts of them."""

    names: tuple[str, ...]
    templates: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of everything that the classes' embeddings depend on, the model apart."""
        return f"sha256:{hashlib.sha256(json.dumps(self).encode()).hexdigest()}"


class Pictures(NamedTuple):
    """A training shard, of which the images alone are looked at."""

    uri: str
    digest: str
    frames: int = 1
    prompt: str = "{c}"


class Files(NamedTuple):
    """Image files, each a sample whose key is its URI."""

    uris: tuple[str, ...]
    digest: str


Source = Shard | Prompts | Pictures | Files


class Store(Protocol):
    """Where features go: `FeatureStore`, or another that tells by digest what it has."""

    def __contains__(self, digest: str) -> bool: ...

    def save(self, digest: str, features: Features) -> None:
        """Keep the features of the source of this digest."""


@dataclass(frozen=True)
class Piece:
    """One batch of a source on its way through the stages."""

    source: int
    part: int
    last: bool
    content: Any  # Batch, then Features; an InputError in place of what could not be read


class Compute(NamedTuple):
    """How a worker computes."""

    device: str
    precision: Precision
    threads: int


def compute(settings: Workers) -> Compute:
    """How the workers of `settings` compute."""
    device = "cuda" if settings.gpus_per_worker else "cpu"
    precision = settings.precision or ("bf16" if settings.gpus_per_worker else "fp32")
    return Compute(device, precision, max(1, round(settings.cpus_per_worker)))


class Done(NamedTuple):
    """How far the extraction is."""

    sources: int  # those kept before included
    images: int  # in this run
    texts: int  # in this run; a class's prompts are one


def extract(
    sources: Sequence[Source],
    store: Store,
    model: Model,
    settings: Workers,
    progress: Callable[[Done], None] = lambda done: None,
) -> Done:
    """Compute the features of all `sources` that `store` hasn't got yet, on the Ray cluster that is connected.

    Args:
        sources: shards and prompts, each once.
        store: where features are kept.
        model: which every node can read.
        settings: batch size, workers and their resources.
        progress: is called after each batch.

    Raises:
        InputError: a shard is damaged or holds no sample; or the cluster has too few CPUs or GPUs, which is found out
            before anything starts.
    """
    missing = [source for source in sources if source.digest not in store]
    done = Done(len(sources) - len(missing), 0, 0)
    if not missing:
        return done
    _preflight(settings)
    return _keep(_stream(missing, model, settings), missing, store, done, progress)


def extract_here(
    sources: Sequence[Source],
    store: Store,
    model: Model,
    settings: Workers,
    progress: Callable[[Done], None] = lambda done: None,
) -> Done:
    """As `extract`, of all sources, by this process alone."""
    actor = _Actor(model.uri, compute(settings))
    rows = (_prepare({"source": number}, sources, model, settings) for number in range(len(sources)))
    pieces = (actor(row)["piece"] for row in itertools.chain.from_iterable(rows))
    return _keep(pieces, sources, store, Done(0, 0, 0), progress)


def _keep(
    pieces: Iterable[Piece], sources: Sequence[Source], store: Store, done: Done, progress: Callable[[Done], None]
) -> Done:
    """Save each source's features when its last batch has come; how far the extraction is then."""
    collected: dict[int, dict[int, Piece]] = defaultdict(dict)
    for piece in pieces:
        if isinstance(piece.content, InputError):
            raise piece.content
        parts = collected[piece.source]
        parts[piece.part] = piece
        if whole := _is_whole(parts):
            store.save(sources[piece.source].digest, concatenate([parts[i].content for i in range(len(parts))]))
            del collected[piece.source]
        images, texts = len(piece.content), len(piece.content.captions)
        done = done._replace(sources=done.sources + whole, images=done.images + images, texts=done.texts + texts)
        progress(done)
    return done


def _stream(sources: Sequence[Source], model: Model, settings: Workers) -> Iterator[Piece]:
    """The features of each batch of each source, in any order."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # byte: each batch is a block, so that stages overlap within a shard
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns of columns that hold objects, as ours do
    with ray.data.DataContext.current(context):
        yield from (row["piece"] for row in _pipeline(sources, model, settings).iter_rows())


def _pipeline(sources: Sequence[Source], model: Model, settings: Workers) -> Any:
    """The two stages as a Ray data set of rows {"piece": Piece}."""
    import ray.data

    prepare = functools.partial(_prepare, sources=sources, model=model, settings=settings)
    # Not `ray.data.range`, whose tasks reserve a whole CPU each: where there is less, they would wait for ever.
    numbers = ray.data.from_items(
        [{"source": number} for number in range(len(sources))], override_num_blocks=len(sources)
    )
    place = pools.selector(settings.pool) or None
    batches = numbers.flat_map(prepare, num_cpus=settings.cpus_per_task, label_selector=place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 has no other way to say max_restarts, and calls this one deprecated
        return batches.map(
            _Actor,  # type: ignore[arg-type]
            fn_constructor_args=(model.uri, compute(settings)),
            compute=ray.data.ActorPoolStrategy(size=settings.workers),
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker or None,
            label_selector=place,
            runtime_env=allocator.RUNTIME_ENV,
            max_restarts=-1 if len(ray.nodes()) > 1 else 0,  # what the only node couldn't hold would die again
        )


def _prepare(
    row: dict[str, int], sources: Sequence[Source], model: Model, settings: Workers
) -> Iterator[dict[str, Piece]]:
    """The batches of a source, as the model takes them."""
    number = row["source"]
    part = -1
    with ThreadPoolExecutor(math.ceil(settings.cpus_per_task)) as threads:
        try:
            for part, (batch, last) in enumerate(_with_last(_batches(sources[number], model, settings, threads))):
                yield {"piece": Piece(number, part, last, batch)}
            if part < 0:
                raise InputError(f"the shard {sources[number].uri} holds no samples")  # type: ignore[union-attr]
        except InputError as fault:  # goes on as a value: Ray would wrap it in an exception of its own, and print it
            yield {"piece": Piece(number, part + 1, True, fault)}


def _batches(source: Source, model: Model, settings: Workers, threads: ThreadPoolExecutor) -> Iterator[Batch]:
    """A source cut so that the model has about `evaluate.batch_size` images or prompts at once."""
    from cliploom.evaluation import preparing

    if isinstance(source, Prompts):
        size = max(1, settings.batch_size // len(source.templates))
        for names in _lots(source.names, size):
            yield preparing.prepare_classes(names, source.templates, model)
    elif isinstance(source, Files):
        for lot in _lots(_files(source.uris), settings.batch_size):
            yield preparing.prepare_samples(lot, model, threads)
    else:
        found = samples(source.uri)
        if isinstance(source, Pictures):
            found = (sample._replace(captions=None) for sample in found)
        for lot in _lots(found, max(1, settings.batch_size // source.frames)):
            yield preparing.prepare_samples(lot, model, threads, source.frames, source.prompt)


def _files(uris: Iterable[str]) -> Iterator[Sample]:
    return (Sample(uri, storage.read(uri), None, None) for uri in uris)


class _Actor:
    """One of the pool that holds the model."""

    def __init__(self, model: str, how: Compute) -> None:
        import torch

        from cliploom.evaluation.encoding import Encoder

        torch.set_num_threads(how.threads)
        self._encoder = Encoder(model, how.device, how.precision)

    def __call__(self, row: dict[str, Piece]) -> dict[str, Piece]:
        piece = row["piece"]
        if isinstance(piece.content, InputError):
            return row
        try:
            return {"piece": replace(piece, content=self._encoder.encode(piece.content))}
        except InputError as fault:
            return {"piece": replace(piece, content=fault)}


def _lots(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    return iter(lambda: list(itertools.islice(iterator, size)), [])


def _with_last(items: Iterator[T]) -> Iterator[tuple[T, bool]]:
    """Each item, and whether it is the last."""
    held = list(itertools.islice(items, 1))
    for item in items:
        yield held.pop(), False
        held.append(item)
    yield from ((item, True) for item in held)


def _is_whole(parts: dict[int, Piece]) -> bool:
    last = parts.get(len(parts) - 1)
    return last is not None and last.last


def _preflight(settings: Workers) -> None:
    """Refuse what the cluster can't hold at once, since it would wait for ever."""
    there = pools.capacity(settings.pool)
    cpus = settings.workers * settings.cpus_per_worker + settings.cpus_per_task
    gpus = settings.workers * settings.gpus_per_worker
    section = type(settings).__name__.lower()
    for kind, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > there.get(kind, 0):
            raise InputError(
                f"{section}.workers={settings.workers} and a decoding task need {needed:g} {kind}s, "
                f"the Ray cluster has {there.get(kind, 0):g}: "
                f"lower {section}.workers or {section}.{kind.lower()}s_per_worker"
            )
