"""Preparing of small raw sources in this process, and a look at what comes out."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from cliploom.config import Config
from cliploom.data import manifest, shards
from cliploom.data.prepare import Result, prepare
from cliploom.settings.data import Prepare


def serially(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    return ((item, function(item)) for item in items)


def run(source: Path, output: Path, **settings: Any) -> Result:
    return prepare(Config(prepare=Prepare(source=str(source), output=str(output), **settings)), serially)


def picture(kind: str = "PNG", size: tuple[int, int] = (12, 8), colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def pairs(result: Result) -> list[tuple[str, bytes, list[str]]]:
    """(key, image, captions) of all samples, read as training reads them."""
    made = manifest.load(result.uri)
    found = []
    for number, shard in enumerate(made.shards):
        index = made.index(number)
        read = shards.read_samples(shard, index, range(len(index)))
        found += [
            (key, image, shards.captions(shard, text)) for key, (image, text) in zip(index.keys, read, strict=True)
        ]
    return found


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


def quarantine(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
