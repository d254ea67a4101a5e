"""Tables of raw pairs, row by row: CSV, TSV, JSON lines, parquet, and COCO's captions. None is held whole but COCO's.

A row is (place, columns); columns is None where a line is no row. Images inside of parquet stay there: the column says
where (`Embedded`), and `embedded` reads them when the shard is made.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cliploom import storage
from cliploom.data.tars import Fault
from cliploom.errors import InputError

Line = tuple[str, dict[str, Any] | None]
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_ROWS_AT_ONCE = 1024
COCO_IMAGE, COCO_CAPTION = "file_name", "caption"


class Embedded(NamedTuple):
    """An image in a parquet file."""

    uri: str
    column: str
    row: int
    version: int  # bytes of the file, which tell a changed one


def is_table(source: str) -> bool:
    """Whether a source is one of the tables that `lines` reads, by the ending of its name."""
    return _ending(source) in (*_DELIMITERS, "jsonl", "ndjson", "parquet")


def is_coco(source: str) -> bool:
    """Whether a source is a file of COCO captions, by the ending of its name."""
    return _ending(source) == "json"


def lines(source: str, image_column: str) -> Iterator[Line]:
    """The rows of the table at `source`.

    Raises:
        InputError: it is no such table.
    """
    ending = _ending(source)
    if ending in _DELIMITERS:
        return _delimited(source, _DELIMITERS[ending])
    return _parquet(source, image_column) if ending == "parquet" else _json_lines(source)


def embedded(images: Sequence[Embedded]) -> Iterator[bytes | None]:
    """The bytes of images of one parquet file and column, in the order of their rows; None where a row has none."""
    if not images:
        return
    wanted = [image.row for image in images]
    with storage.opened(images[0].uri) as opened, pq.ParquetFile(opened) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            inside = [row - first for row in wanted if first <= row < first + count]
            first += count
            if not inside:
                continue
            done = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[images[0].column]):
                cells = batch.column(0)
                for row in inside:
                    if done <= row < done + len(cells):
                        yield _bytes(cells[row - done].as_py())
                done += len(cells)


def coco(source: str) -> Iterator[Line | Fault]:
    """A row an image, with the list of its captions, and what is known of the image.

    Raises:
        InputError: the file is none of COCO's captions.
    """
    try:
        with storage.opened(source) as file:
            tree = json.load(file)
        images, annotations = tree["images"], tree["annotations"]
        captions = defaultdict(list)
        for annotation in annotations:
            captions[annotation["image_id"]].append(annotation["caption"])
        rows = [(dict(image), captions.pop(image["id"], None)) for image in images]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"prepare.source: {source} is no file of COCO captions, with images {{id, file_name}} and annotations "
            f"{{image_id, caption}}: {type(error).__name__} {error}"
        ) from None
    for image, texts in rows:
        place = f"{source}#{image['id']}"
        yield (place, {**image, COCO_CAPTION: texts}) if texts else Fault(place, "image without caption")
    yield from (Fault(f"{source}#{number}", "caption without image") for number in captions)


def _ending(source: str) -> str:
    return storage.name(source).rpartition(".")[2].lower()


def _delimited(source: str, delimiter: str) -> Iterator[Line]:
    with _text(source) as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            for columns in reader:
                whole = None not in columns and None not in columns.values()  # neither too many values nor too few
                yield f"{source}:{reader.line_num}", dict(columns) if whole else None
        except csv.Error as error:
            raise InputError(f"{source}:{reader.line_num}: {error}") from None


def _json_lines(source: str) -> Iterator[Line]:
    with _text(source) as file:
        for number, line in enumerate(file, start=1):
            try:
                columns = json.loads(line)
            except ValueError:
                columns = None
            yield f"{source}:{number}", columns if isinstance(columns, dict) else None


def _parquet(source: str, image_column: str) -> Iterator[Line]:
    """Rows without the images that stand in the table, of which is said where."""
    size = storage.size(source)
    try:
        with storage.opened(source, size) as opened, pq.ParquetFile(opened) as file:
            schema = file.schema_arrow
            inside = image_column in schema.names and not _is_text(schema.field(image_column).type)
            names = [field.name for field in schema if _is_plain(field.type)]
            number = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names):
                for columns in batch.to_pylist():
                    known = {name: _plain(value) for name, value in columns.items()}
                    if inside:
                        known[image_column] = Embedded(source, image_column, number, size)
                    yield f"{source}:{number}", known
                    number += 1
    except pa.ArrowException as error:
        raise InputError(f"prepare.source: {source} is no parquet file: {' '.join(str(error).split())}") from None


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether JSON has words for a column's values: neither bytes nor what holds bytes."""
    if pa.types.is_nested(kind):
        return all(_is_plain(kind.field(number).type) for number in range(kind.num_fields))
    return not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _plain(value: Any) -> Any:
    """A value as JSON has it; times and decimals as text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) or value is None else str(value)


def _bytes(cell: Any) -> bytes | None:
    """An image's bytes: the cell, or its field `bytes`, as Hugging Face's data sets have them."""
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    return found if isinstance(found, bytes) else None


def _text(source: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(storage.opened(source), encoding="utf-8-sig", errors="surrogateescape", newline="")
