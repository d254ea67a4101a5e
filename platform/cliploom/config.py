"""One typed tree of settings for all jobs: a YAML file, dotted overrides, validated, printable."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from cliploom.errors import InputError
from cliploom.sections import Ascending, Fraction, Positive, Section, type_name


class Run(Section):
    """Which run this is and where it keeps what it makes."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="a run of this name goes on")
    storage: str = Field("storage", description="URI of the folder that holds runs (local or s3://)")


class Ray(Section):
    """Which Ray cluster the job uses."""

    address: str | None = Field(None, description="of a cluster; by default the one it runs in, else a local one")
    cpus: Positive | None = Field(None, description="CPUs of a local cluster; by default all of the machine's")
    object_store_gb: float = Field(1.0, gt=0, description="object store of a local cluster, in GiB")


class Mixed(Section):
    """One manifest of a mixture."""

    uri: str = Field(description="URI of manifest.parquet, of its folder, or a pattern of shards")
    weight: float = Field(1.0, gt=0, description="how often an epoch has each of its samples")


class Data(Section):
    """The image-text pairs that training reads, and how."""

    manifest: str | Annotated[list[Mixed], Field(min_length=1)] | None = Field(
        None,
        description="URI of manifest.parquet, of its folder, or a pattern of shards; or several, {uri, weight} each, "
        "weight being how often an epoch has each sample",
    )
    deny: str | None = Field(
        None, description="URI of a list of samples to leave out: KEY or SHARD#KEY, as lines or a parquet column key"
    )
    vocabulary: str | None = Field(None, description="URI of a vocabulary file of one's own; CLIP's by default")
    max_bad_fraction: Fraction = Field(0.01, description="share of unreadable samples above which training stops")
    window_shards: Positive = Field(16, description="shards that are shuffled together")
    crop_scale: Annotated[tuple[Fraction, Fraction], Ascending] = Field(
        (0.9, 1.0), description="area range of the random resized crop"
    )
    cpus_per_task: float = Field(0.25, gt=0, description="CPUs a decoding task reserves")
    prefetch: Positive = Field(4, description="micro-batches each worker keeps ready")


class Prepare(Section):
    """From raw pairs, or labelled images, to shards."""

    source: str | None = Field(None, description="folder of pairs, .csv, .tsv, .jsonl, .parquet, or COCO .json")
    output: str | None = Field(None, description="URI of the folder for shards and manifest")
    layout: Literal["pairs", "classification", "retrieval"] = Field(
        "pairs", description="pairs to train on, or an evaluation set in the CLIP benchmark's layout"
    )
    images: str | None = Field(None, description="folder that a table's image paths start from; else its own")
    image_column: str = Field("image", description="column with the image's path or URI, in parquet also its bytes")
    caption_column: str = Field("caption", description="column with the caption, or a list of them")
    class_column: str = Field("class", description="column with the name or number of the class")
    split: str = Field("test", pattern=r"^[A-Za-z0-9_-]+$", description="evaluation sets: the part of the set")
    classnames: str | None = Field(None, description="evaluation sets: file with a class name a line; else as found")
    templates: str | None = Field(None, description="evaluation sets: file with a prompt a line, {c} is the class name")
    shard_samples: Positive = Field(1000, description="samples a shard")
    resize: Positive | None = Field(None, description="shorter side at rest, in pixels; images are never enlarged")
    quality: Annotated[int, Field(ge=1, le=100)] = Field(92, description="JPEG quality of images that are resized")


class Index(Section):
    """A manifest for shards that exist."""

    shards: str | None = Field(None, description="folder of tars, or a pattern: s3://b/{00000..01023}.tar")
    output: str | None = Field(None, description="URI of the folder for the manifest; by default that of the shards")
    content_digest: bool = Field(False, description="digest the shards' whole content, not only sizes and tar headers")


class Vocabulary(Section):
    """A vocabulary of one's own, trained on the captions of data.manifest."""

    size: int = Field(8192, ge=515, le=49408, description="token ids, bytes and start and end of text included")
    output: str | None = Field(None, description="URI of the file to write, vocabulary.txt.gz for example")


class Ngrams(Section):
    """A dictionary of n-grams for the objective ngrams, counted in the captions of data.manifest."""

    output: str | None = Field(None, description="URI of the file to write, ngrams.safetensors for example")
    most: Positive = Field(142_806, description="n-grams in it, of 1 to 5 tokens: the most frequent ones")
    min_count: Positive = Field(10, description="times that an n-gram must occur")


class CurateQueries(Section):
    """The words of which a caption must contain some: lists of them, and what a reference text is made of."""

    lists: list[str] = Field([], description="URIs of text files with a query a line")
    reference: str | None = Field(None, description="URI of a text, the English Wikipedia's say, to take queries from")
    min_count: Positive = Field(100, description="times that the reference has a word, or two, to make it a query")
    bigram_pmi: float | None = Field(None, description="pointwise mutual information, in bits, to make two words one")


class CurateFilters(Section):
    """Rules on single pairs; each is off unless it is set."""

    min_side: Positive | None = Field(None, description="shortest side of an image, in pixels")
    max_aspect: float | None = Field(None, ge=1, description="an image's longer side over its shorter, at most")
    min_characters: Positive | None = Field(None, description="shortest caption")
    max_characters: Positive | None = Field(None, description="longest caption")
    scripts: list[str] = Field([], description="half of a caption's letters are of these Unicode scripts: [Latin]")


class CurateDuplicates(Section):
    """Which pairs are too much alike; each rule is off unless it is set."""

    captions: bool = Field(False, description="one pair for each caption")
    images: bool = Field(False, description="one pair for each image, byte for byte")
    phash_distance: int | None = Field(
        None, ge=0, le=8, description="one pair of two whose images' perceptual hashes differ in so many of 64 bits"
    )
    embeddings: str | None = Field(None, description=".npy or .parquet file of embeddings in the manifest's order")
    min_cosine: float | None = Field(None, gt=0, le=1, description="one pair of two whose embeddings are so similar")


class Curate(Section):
    """From many pairs to those worth training on."""

    manifest: str | None = Field(None, description="URI of manifest.parquet, of its folder, or a pattern of shards")
    output: str | None = Field(None, description="URI of the folder for the shards and manifest of what is kept")
    queries: CurateQueries = CurateQueries()
    per_query: Positive = Field(20_000, description="most pairs that a query keeps; a pair stays if one of its does")
    filters: CurateFilters = CurateFilters()
    duplicates: CurateDuplicates = CurateDuplicates()
    seed: int = Field(0, ge=0, lt=2**63, description="of the choice among a query's pairs")
    dry_run: bool = Field(False, description="decide and report, but write no shards")


class Model(Section):
    """Which network."""

    name: str = Field("ViT-B-32", description="a preset; `cliploom.list_models()` lists them")
    weights: str | None = Field(None, description="file or folder to start from; random weights without one")
    activation: Literal["quick_gelu", "gelu"] | None = Field(
        None, description="of the transformers; by default that of the weights, or quick_gelu"
    )
    patch_dropout: float = Field(0.0, ge=0, lt=1, description="share of an image's patches that a visit leaves out")


class Objective(Section):
    """What is learned from the pairs."""

    name: Literal["contrastive", "sigmoid", "bag_of_words_contrastive", "captioning", "bag_of_words", "ngrams"] = Field(
        "contrastive", description="the task whose loss is minimised"
    )
    ngrams: str | None = Field(None, description="dictionary for the objective ngrams, from jobs/ngrams.py")


class Train(Section):
    """The optimisation and its workers."""

    global_batch_size: Positive = Field(1024, description="pairs an optimizer step, over all workers")
    micro_batch_size: Positive = Field(256, description="pairs a worker holds activations for at once")
    workers: Annotated[Positive | tuple[Positive, Positive], Ascending] = Field(
        1, description="a number, or [min, max] for elastic training"
    )
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs reserved for each worker")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs reserved for each worker")
    memory_gb_per_worker: float = Field(0.0, ge=0, description="memory reserved for each worker, in GiB")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of the compute; master weights are fp32")
    seed: int = Field(0, ge=0, lt=2**63, description="of the plan, the initial weights and the augmentation")
    samples: Positive | None = Field(None, description="pairs to train on, in all")
    epochs: float | None = Field(None, gt=0, description="passes over the data, instead of train.samples")
    learning_rate: float = Field(5e-4, gt=0, description="the highest, after warm-up")
    warmup_samples: int = Field(0, ge=0, description="samples of linear warm-up")
    weight_decay: float = Field(0.2, ge=0, description="decoupled; not on gains, biases and logit scale")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the rate with each block before the last")
    lock: Literal["none", "image", "text"] = Field("none", description="tower that stays as it is")
    beta1: Fraction = Field(0.9, description="AdamW")
    beta2: Fraction = Field(0.98, description="AdamW")
    epsilon: float = Field(1e-6, gt=0, description="AdamW")
    max_gradient_norm: float | None = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    norm_batch_size: Positive = Field(32, description="consecutive samples that a ResNet's BatchNorm normalises over")
    text_buckets: Positive = Field(1, description="length buckets a micro-batch's captions are encoded in")
    activation_checkpointing: bool = Field(False, description="keep blocks' inputs alone, for memory, and recompute")
    compile: bool = Field(False, description="compile the transformers' blocks at the first step")
    checkpoint_steps: Positive = Field(500, description="steps between checkpoints")
    checkpoint_minutes: float = Field(15, gt=0, description="longest time between checkpoints")
    keep_checkpoints: Positive = Field(2, description="the last so many whole checkpoints stay")
    max_failures: int = Field(3, ge=0, description="restarts of failed workers before the run gives up")
    max_skipped: Positive = Field(8, description="steps in a row with a loss or gradient that is not finite")
    log_steps: Positive = Field(10, description="steps between progress lines and metrics")


class Registry(Section):
    """MLflow: tracking and model versions."""

    uri: str | None = Field(None, description="MLflow server or sqlite:///FILE; by default sqlite in run.storage")
    experiment: str = Field("cliploom", description="MLflow experiment of runs")
    model_name: str | None = Field(
        None, pattern=r"^[^/:@']+$", description="registered model that training adds a version to"
    )


class Gates(Section):
    """What a version must reach to pass its evaluation."""

    floors: dict[str, Fraction] = Field({}, description="DATASET/METRIC: lowest value that passes")
    max_regression: Fraction = Field(0.0, description="loss against the champion, beyond its interval, that passes")


class EvaluateOverlap(Section):
    """Which test samples count as those of the training data."""

    manifest: str | None = Field(None, description="of the training shards; without it overlap is not looked for")
    min_cosine: float = Field(0.95, gt=0, le=1, description="of two such pictures; check the pairs that are shown")
    phash_distance: int = Field(4, ge=0, le=64, description="or bits, of 64, that their perceptual hashes differ in")


class Evaluate(Section):
    """What is measured, on which model."""

    model: str | None = Field(None, description="models:/NAME@ALIAS, models:/NAME/VERSION, or a weights file")
    suite: str | None = Field(None, description="YAML list of datasets, tasks and metrics")
    root: str = Field(".", description="URI that the suite's dataset paths are relative to")
    batch_size: Positive = Field(128, description="images a batch")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of the compute on GPUs; CPUs compute in fp32")
    workers: Positive = Field(1, description="model actors")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs of a model actor")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs of a model actor")
    cpus_per_task: float = Field(0.5, gt=0, description="CPUs a decoding task reserves, each a thread")
    references: str | None = Field(None, description="CSV of other models' accuracies, for effective robustness")
    overlap: EvaluateOverlap = EvaluateOverlap()
    gates: Gates = Gates()


class Review(Section):
    """Who decides on a version, and why."""

    by: str | None = Field(None, description="who decides; by default the user of the operating system")
    why: str = Field("", description="the reason, where the command line has none")
    override: bool = Field(False, description="approve a version that has not passed its evaluation; needs a reason")


class Config(Section):
    """The whole tree."""

    run: Run = Run()
    ray: Ray = Ray()
    data: Data = Data()
    prepare: Prepare = Prepare()
    index: Index = Index()
    curate: Curate = Curate()
    vocabulary: Vocabulary = Vocabulary()
    ngrams: Ngrams = Ngrams()
    model: Model = Model()
    objective: Objective = Objective()
    train: Train = Train()
    registry: Registry = Registry()
    evaluate: Evaluate = Evaluate()
    review: Review = Review()


def load(path: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The tree from the YAML file `path` and `section.key=value` overrides, which win.

    Raises:
        InputError: the file is not there or not a mapping, a key is unknown, a value is of the wrong type.
    """
    tree = _read(path) if path else {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise InputError(f"'{override}' is no setting: write section.key=value")
        _set(tree, key.strip(), _parse(key, value))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_explain(error, path)) from None


def dump(config: Config) -> str:
    """The resolved tree as YAML, in a form that `load` reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key as (dotted key, type, default, description)."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            default = "none" if field.default is None else yaml.safe_dump(field.default, default_flow_style=True)
            default = default.removesuffix("\n").removesuffix("\n...")
            yield prefix + name, type_name(kind), default, field.description or ""


def require(config: Config, *names: str) -> None:
    """Check that the dotted keys `names` have values.

    Raises:
        InputError: names the first key that has none.
    """
    for name in names:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if value is None:
            raise InputError(f"{name} is not set: give it in the config file or as {name}=VALUE")


def _read(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no config file at {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the config file {path} can't be read: {reason}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"the config file {path} holds no mapping of sections")
    return tree


def _parse(key: str, value: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"the value of {key} is no valid YAML: {value}") from None
    if isinstance(parsed, str | list | dict) or parsed is None:
        return parsed
    is_text = any(name == key and kind.split("|")[0] == "str" for name, kind, *_ in keys())
    return value.strip() if is_text else parsed  # run.name=2024 is a name, though YAML sees a number


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        inner = tree[section]
        if not isinstance(inner, dict):
            raise InputError(f"'{key}' is no key: {section} is a value, not a section")
        tree = inner
    tree[last] = value


def _explain(error: ValidationError, path: str | None) -> str:
    """The first fault as one line."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    types = {name: kind for name, kind, *_ in keys()}
    where = f" (config file {path})" if path else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}{where}{nearest(key, [*types, *Config.model_fields])}"
    for name in types:
        if key.startswith(f"{name}.") and "|" in types[name]:  # pydantic tells each alternative's fault
            return f"{name}: should be {types[name]}, but it is {fault['input']!r}{where}"
    return f"{key}: {fault['msg'][:1].lower()}{fault['msg'][1:]}, but it is {fault['input']!r}{where}"


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?` with the known word nearest to `word`, or nothing where none is near."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""
