"""A contact sheet: what was found, as one HTML file that stands alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from cliploom.data.faults import BadSample
from cliploom.data.transforms import decode_image
from cliploom.embedding import sources
from cliploom.embedding.search import Hit
from cliploom.embedding.store import Embeddings
from cliploom.pages import templates

_SIDE = 240  # pixels


def render(embeddings: Embeddings, hits: Sequence[Hit], text: str, image: bytes | None) -> str:
    """The page.

    Args:
        embeddings: that were searched.
        hits: in their order.
        text: that was looked for; empty where it was an image.
        image: the picture that was looked for.
    """
    open_picture = sources.opener(embeddings.source)
    found: list[dict[str, Any]] = []
    for hit in hits:
        key = embeddings.keys[hit.row]
        picture = open_picture(embeddings.places[hit.row], key)
        uri = _data_uri(picture.data) if picture else None
        found.append({"key": key, "cosine": hit.cosine, "uri": uri, "caption": picture.caption if picture else ""})
    query = {"text": text, "uri": _data_uri(image) if image else None}
    return (
        templates("cliploom.embedding")
        .get_template("sheet.html.j2")
        .render(query=query, found=found, embeddings=embeddings)
    )


def _data_uri(data: bytes) -> str | None:
    """The picture, small, as a data URI; None where it can't be decoded."""
    try:
        picture = decode_image(data)
    except BadSample:
        return None
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
