"""The pairs: how they are packed, indexed and read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cliploom.settings.base import Ascending, Fraction, Positive, Section


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
    licences: str | None = Field(None, description="of the pairs, in words or as a URI; the model card tells them")
    deny: str | None = Field(
        None, description="URI of a list of samples to leave out: KEY or SHARD#KEY, as lines or a parquet column key"
    )
    vocabulary: str | None = Field(None, description="URI of a vocabulary file of one's own; CLIP's by default")
    max_bad_fraction: Fraction = Field(0.01, description="share of unreadable samples above which training stops")
    window_shards: Positive = Field(16, description="shards that are shuffled together")
    crop_scale: Annotated[tuple[Fraction, Fraction], Ascending] = Field(
        (0.9, 1.0), description="area range of the random resized crop"
    )
    cpus_per_task: float = Field(1.0, gt=0, description="CPUs a decoding task reserves; it keeps one busy")
    prefetch: Positive = Field(4, description="micro-batches each worker keeps ready")
    pool: str | None = Field("ingest", description="label of the nodes that decode; any node where none has it")


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
    output: str | None = Field(None, description="URI of the file to write, vocabulary.bpe for example")


class Ngrams(Section):
    """A dictionary of n-grams for the objective ngrams, counted in the captions of data.manifest."""

    output: str | None = Field(None, description="URI of the file to write, ngrams.safetensors for example")
    most: Positive = Field(142_806, description="n-grams in it, of 1 to 5 tokens: the most frequent ones")
    min_count: Positive = Field(10, description="times that an n-gram must occur")
