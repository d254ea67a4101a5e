"""What is embedded, and what is looked for among embeddings."""

from __future__ import annotations

from pydantic import Field

from cliploom.settings.base import Positive, Section
from cliploom.settings.evaluation import Workers


class Embed(Workers):
    """Images that become embeddings."""

    model: str | None = Field(None, description="models:/NAME@ALIAS, models:/NAME/VERSION, or a weights file")
    source: str | None = Field(None, description="a manifest, its folder, shards' tars, or a folder of image files")
    output: str | None = Field(None, description="URI of the folder that gets the embeddings")


class Retrieve(Section):
    """What is looked for among embeddings."""

    embeddings: str | None = Field(None, description="URI of the folder that jobs/embed.py filled")
    image: str | None = Field(None, description="file or URI of a picture to look for, in place of a text")
    count: Positive = Field(20, description="results")
    html: str | None = Field(None, description="file that gets the pictures as a contact sheet")
