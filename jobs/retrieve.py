"""Find images by a text or an image."""

from __future__ import annotations

import sys
from pathlib import Path

from cliploom import job
from cliploom.config import Config, require
from cliploom.errors import InputError

USAGE = "[TEXT ...]"
OPTIONS = {"--image": "retrieve.image", "--html": "retrieve.html"}


def main(config: Config, words: list[str]) -> None:
    """Find the images of retrieve.embeddings that are nearest to a text, or to the picture --image.

    --html FILE writes a contact sheet.
    """
    require(config, "retrieve.embeddings")
    asked, text = config.retrieve, " ".join(words)
    if bool(text) == bool(asked.image):
        raise InputError("say what to look for: either a text, or --image FILE")
    from rich.console import Console
    from rich.table import Table

    from cliploom import storage
    from cliploom.embedding import search, sheet, store

    embeddings = store.load(storage.absolute(str(asked.embeddings)))
    query = search.embed_query(embeddings, text, asked.image)
    hits = search.nearest(embeddings.vectors, query, asked.count)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("", "cosine", "key", "in"):
        table.add_column(column, overflow="fold")
    for place, hit in enumerate(hits, 1):
        table.add_row(str(place), f"{hit.cosine:.3f}", embeddings.keys[hit.row], embeddings.places[hit.row])
    Console().print(table)
    if asked.html:
        picture = storage.read(asked.image) if asked.image else None
        Path(asked.html).write_text(sheet.render(embeddings, hits, text, picture), encoding="utf-8")
        print(f"page     {asked.html}")


if __name__ == "__main__":
    sys.exit(job.run(main, USAGE, options=OPTIONS))
