"""Which pairs are kept for training."""

from __future__ import annotations

from pydantic import Field

from cliploom.settings.base import Positive, Section


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
