"""Raw pairs as people have them: folders of images with captions or by class, CSV, TSV and JSON lines files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cliploom import storage
from cliploom.config import Prepare, nearest
from cliploom.data.shards import IMAGE_EXTENSIONS, Fault
from cliploom.errors import InputError

_DECODED = {*IMAGE_EXTENSIONS, "gif", "bmp", "tif", "tiff"}
_DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class Row:
    """One image and what is said of it."""

    number: int  # in the source
    source: str  # where it stands there: FILE:LINE, or the image's URI
    image: str  # URI
    captions: tuple[str, ...] = ()
    caption_file: str | None = None  # URI of a file that holds the caption
    label: str | None = None  # name or number of the class
    metadata: dict[str, Any] = field(default_factory=dict)
    version: tuple[int, ...] = ()  # sizes of the files, which tell a changed source from the same one


def rows(settings: Prepare) -> Iterator[Row | Fault]:
    """The rows of `settings.source`, in an order that the source alone gives.

    Raises:
        InputError: there is no such source, it is of no known kind, or a column is missing.
    """
    source = settings.source or ""
    ending = storage.name(source).rpartition(".")[2].lower()
    try:
        if ending in _DELIMITERS:
            yield from _table(settings, _delimited(source, _DELIMITERS[ending]))
        elif ending in ("jsonl", "ndjson"):
            yield from _table(settings, _json_lines(source))
        else:
            yield from _folder(settings, source)
    except FileNotFoundError:
        raise InputError(f"prepare.source: there is no {source}") from None
    except storage.StorageError as error:
        raise InputError(f"prepare.source: {error}") from None


def _folder(settings: Prepare, source: str) -> Iterator[Row | Fault]:
    files = {file.uri: file.size for file in storage.files(source)}
    if not files:
        raise InputError(f"prepare.source: {source} is no folder with files, and no .csv, .tsv or .jsonl")
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


def _table(settings: Prepare, lines: Iterator[tuple[str, dict[str, Any] | None]]) -> Iterator[Row | Fault]:
    """Rows of a table's (place, columns); columns None is a line that is no row."""
    text_column = settings.class_column if settings.layout == "classification" else settings.caption_column
    wanted = {"prepare.image_column": settings.image_column}
    wanted["prepare.class_column" if settings.layout == "classification" else "prepare.caption_column"] = text_column
    folder = storage.parent(settings.source or "")
    for number, (place, columns) in enumerate(lines):
        if columns is None:
            yield Fault(place, "line is no row")
            continue
        if number == 0:
            _require_columns(wanted, columns, settings.source or "")
        image, text = columns.pop(settings.image_column, None), columns.pop(text_column, None)
        texts = [text] if isinstance(text, str | int) else text
        if not isinstance(image, str) or not image:
            yield Fault(place, "row without image")
        elif not isinstance(texts, list) or not all(isinstance(one, str | int) for one in texts):
            yield Fault(place, "row without caption")
        else:
            uri = image if "://" in image or image.startswith("/") else storage.join(folder, image)
            words = tuple(str(one) for one in texts)
            if settings.layout == "classification":
                yield Row(number, place, uri, label=words[0], metadata=columns)
            else:
                yield Row(number, place, uri, captions=words, metadata=columns)


def _require_columns(wanted: dict[str, str], columns: dict[str, Any], source: str) -> None:
    for key, column in wanted.items():
        if column not in columns:
            known = ", ".join(columns)
            raise InputError(f"{key}: {source} has no column {column}, but {known}{nearest(column, list(columns))}")


def _delimited(source: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    with _text(source) as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            for columns in reader:
                whole = None not in columns and None not in columns.values()  # neither too many values nor too few
                yield f"{source}:{reader.line_num}", dict(columns) if whole else None
        except csv.Error as error:
            raise InputError(f"{source}:{reader.line_num}: {error}") from None


def _json_lines(source: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    with _text(source) as file:
        for number, line in enumerate(file, start=1):
            try:
                columns = json.loads(line)
            except ValueError:
                columns = None
            yield f"{source}:{number}", columns if isinstance(columns, dict) else None


def _text(source: str) -> io.TextIOBase:
    if storage.is_s3(source):
        return io.StringIO(storage.read(source).decode("utf-8-sig", "surrogateescape"), newline="")
    return storage.local(source).open(encoding="utf-8-sig", errors="surrogateescape", newline="")
