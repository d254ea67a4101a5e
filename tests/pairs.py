"""Small shards of drawn image-text pairs, whose captions say what is drawn."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

from PIL import Image, ImageDraw

from cliploom.data import manifest
from cliploom.data.shards import ShardWriter

COLOURS = ("red", "green", "blue", "yellow", "black", "orange", "purple", "gray")
SHAPES = ("ellipse", "rectangle", "line", "pieslice")


def write(folder: Path, shards: int = 4, samples: int = 24, size: int = 48, several: bool = False) -> str:
    """Write shards and their manifest below `folder`; returns the manifest's URI."""
    kinds = list(itertools.product(COLOURS, SHAPES))
    rows = []
    for number in range(shards):
        with ShardWriter(str(folder / f"{number:05d}.tar"), several) as writer:
            for i in range(samples):
                colour, shape = kinds[(number * samples + i) % len(kinds)]
                caption = f"a {colour} {shape}"
                captions = [caption, f"{shape}, {colour}"] if several else [caption]
                writer.add(f"{number:05d}{i:04d}", draw(colour, shape, size + i % 5), "png", captions)
        rows.append((writer.shard, writer.index))
    return manifest.write(str(folder / "manifest.parquet"), rows).uri


def draw(colour: str, shape: str, size: int) -> bytes:
    """A PNG of one shape in one colour."""
    image = Image.new("RGB", (size, size), "white")
    box = (size // 5, size // 5, size - size // 5, size - size // 5)
    pen = ImageDraw.Draw(image)
    if shape == "pieslice":
        pen.pieslice(box, 0, 250, fill=colour)
    elif shape == "line":
        pen.line(box, fill=colour, width=size // 6)
    else:
        getattr(pen, shape)(box, fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
