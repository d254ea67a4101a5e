"""Small evaluation sets in the layout of the CLIP benchmark's, written with tarfile alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 210), "white": (250, 250, 250)}
TEMPLATES = ("a {c} picture", "a photo of something {c}.", "{c}")

Files = Mapping[str, bytes]


def picture(number: int, size: int = 40) -> Image.Image:
    """Noise around one colour, a function of `number`."""
    colour = list(COLOURS.values())[number % len(COLOURS)]
    noise = np.random.default_rng(number).normal(0, 40, (size, size + number % 7, 3))
    return Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG" if kind == "jpg" else kind.upper())
    return data.getvalue()


def write_tar(path: Path, files: Files) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_layout(
    root: Path,
    shards: Sequence[Files],
    kind: str = "classification",
    names: Sequence[str] = tuple(COLOURS),
    templates: Sequence[str] = TEMPLATES,
    split: str = "test",
) -> Path:
    for number, files in enumerate(shards):
        write_tar(root / split / f"{number}.tar", files)
    (root / split / "nshards.txt").write_text(f"{len(shards)}\n")
    (root / "dataset_type.txt").write_text(f"{kind}\n")
    if kind != "retrieval":
        (root / "classnames.txt").write_text("\n".join(names) + "\n")
        (root / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    return root


def classification(
    root: Path, samples: int = 24, shards: int = 2, classes: int = len(COLOURS), split: str = "test", first: int = 0
) -> Path:
    """Pictures of unequal classes, in all image formats."""
    labels = {n: n % classes if n % 3 else 0 for n in range(first, first + samples)}
    files = [
        {f"{n:04d}.{kind}": encoded(picture(n), kind), f"{n:04d}.cls": str(labels[n]).encode()}
        for n in range(first, first + samples)
        for kind in [("png", "jpg", "webp")[n % 3]]
    ]
    names = [*COLOURS, *(f"colour {n}" for n in range(classes))][:classes]
    return write_layout(root, [_merged(files[s::shards]) for s in range(shards)], names=names, split=split)


def retrieval(root: Path, samples: int = 14, shards: int = 2) -> Path:
    """Pictures with one to three captions."""
    captions = [
        "\n".join(f"{list(COLOURS)[n % 4]} picture {n} seen {k} times" for k in range(1 + n % 3))
        for n in range(samples)
    ]
    files = [{f"{n:04d}.png": encoded(picture(n)), f"{n:04d}.txt": captions[n].encode()} for n in range(samples)]
    return write_layout(root, [_merged(files[s::shards]) for s in range(shards)], kind="retrieval")


def _merged(files: Sequence[Files]) -> Files:
    return {name: data for sample in files for name, data in sample.items()}
