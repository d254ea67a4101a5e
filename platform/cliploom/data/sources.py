"""Raw pairs as people have them: folders of images with captions or by class, and tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cliploom import storage
from cliploom.config import nearest
from cliploom.data import tables
from cliploom.data.shards import IMAGE_EXTENSIONS
from cliploom.data.tables import Embedded, Line
from cliploom.data.tars import Fault
from cliploom.errors import InputError, refused
from cliploom.settings.data import Prepare

_DECODED = {*IMAGE_EXTENSIONS, "gif", "bmp", "tif", "tiff"}


@dataclass(frozen=True)
class Row:
    """One image and what is said of it."""

    number: int  # in the source
    source: str  # where it stands there: FILE:LINE, or the image's URI
    image: str | Embedded  # URI, or a place in a parquet file
    captions: tuple[str, ...] = ()
    caption_file: str | None = None  # URI of a file that holds the caption
    label: str | None = None  # name or number of the class
    metadata: dict[str, Any] = field(default_factory=dict)
    version: tuple[int, ...] = ()  # sizes of the files, where the source lists them: a changed one is noticed by them


def rows(settings: Prepare) -> Iterator[Row | Fault]:
    """The rows of `settings.source`, in an order that the source alone gives.

    Raises:
        InputError: there is no such source, it is of no known kind, or a column is missing.
    """
    source = settings.source or ""
    try:
        with refused("prepare.source"):
            yield from _rows(settings, source)
    except FileNotFoundError:
        raise InputError(f"prepare.source: there is no {source}") from None


def _rows(settings: Prepare, source: str) -> Iterator[Row | Fault]:
    if tables.is_coco(source):
        if settings.layout == "classification":
            raise InputError(f"prepare.layout: {source} has captions, and no classes")
        yield from _table(settings, tables.COCO_IMAGE, tables.COCO_CAPTION, tables.coco(source))
    elif tables.is_table(source):
        text = settings.class_column if settings.layout == "classification" else settings.caption_column
        files = storage.expand(source)
        lines = itertools.chain.from_iterable(tables.lines(file, settings.image_column) for file in files)
        yield from _table(settings, settings.image_column, text, lines)
    else:
        yield from _folder(settings, source)


def _folder(settings: Prepare, source: str) -> Iterator[Row | Fault]:
    files = {file.uri: file.size for file in storage.files(source)}
    if not files:
        raise InputError(f"prepare.source: {source} is no folder with files, and no table by its name")
    images = [uri for uri in files if uri.rpartition(".")[2].lower() in _DECODED]
    if not images:
        raise InputError(f"prepare.source: {source} holds no images ({', '.join(sorted(_DECODED))})")
    classes = settings.layout == "classification"
    for number, image in enumerate(images):
        caption = f"{image.rpartition('.')[0]}.txt"
        if classes:
            label = storage.name(storage.parent(image))
            yield Row(number, image, image, label=label, version=(files[image],))
        elif caption in files:
            yield Row(number, image, image, caption_file=caption, version=(files[image], files[caption]))
        else:
            yield Fault(image, "image without caption")
    if not classes:
        stems = {image.rpartition(".")[0] for image in images}
        texts = (uri for uri in files if uri.endswith(".txt") and uri.removesuffix(".txt") not in stems)
        yield from (Fault(text, "caption without image") for text in texts)


def _table(
    settings: Prepare, image_column: str, text_column: str, lines: Iterator[Line] | Iterator[Line | Fault]
) -> Iterator[Row | Fault]:
    classes = settings.layout == "classification"
    folder = settings.images or storage.parent(settings.source or "")
    for number, line in enumerate(lines):
        if isinstance(line, Fault):
            yield line
            continue
        place, columns = line
        if columns is None:
            yield Fault(place, "line is no row")
            continue
        if number == 0:
            text_key = "prepare.class_column" if classes else "prepare.caption_column"
            _require_columns(
                {"prepare.image_column": image_column, text_key: text_column}, columns, settings.source or ""
            )
        image, text = columns.pop(image_column, None), columns.pop(text_column, None)
        texts = [text] if isinstance(text, str | int) else text
        if not image or not isinstance(image, str | Embedded):
            yield Fault(place, "row without image")
        elif not isinstance(texts, list) or not all(isinstance(one, str | int) for one in texts):
            yield Fault(place, "row without caption")
        else:
            if isinstance(image, str) and "://" not in image and not image.startswith("/"):
                image = storage.join(folder, image)
            words = tuple(str(one) for one in texts)
            if classes:
                yield Row(number, place, image, label=words[0], metadata=columns)
            else:
                yield Row(number, place, image, captions=words, metadata=columns)


def _require_columns(wanted: dict[str, str], columns: dict[str, Any], source: str) -> None:
    for key, column in wanted.items():
        if column not in columns:
            known = ", ".join(columns)
            raise InputError(f"{key}: {source} has no column {column}, but {known}{nearest(column, list(columns))}")
