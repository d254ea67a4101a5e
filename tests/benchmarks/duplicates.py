"""How well duplicates are found that were planted: changed copies of training pictures among pictures that are new.

The pictures are drawings of openclipart and photographic stamps of Tux Paint (Debian: apt-get install openclipart-png
tuxpaint-stamps-default). Each copy is cropped (80 to 100 % of either side), scaled (50 to 150 %), recoloured
(saturation, brightness and contrast 70 to 130 %) and compressed (JPEG of quality 30 to 90), all of it at random. The
collections hold copies of their own pictures, and plain ones: of pictures whose 64-bit DCT hashes differ in up to six
bits the first is taken alone, and those whose grey levels vary by less than ten are left out, as is a series of 1,375
generated stars of rays (star_*step.png) that differ in little more than their number, and the letters of the stamps'
alphabets, which come with accents and without. Embeddings are random, so that the pictures alone decide.

    duplicates.py [--output FILE] [--pictures N]
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from PIL import Image, ImageEnhance

from cliploom.data.curation.phash import phash
from cliploom.evaluation.duplicates import nearest
from cliploom.evaluation.preparing import small
from cliploom.evaluation.store import Features
from cliploom.settings.evaluation import EvaluateOverlap

FOLDERS = {"openclipart": "/usr/share/openclipart/png", "tuxpaint stamps": "/usr/share/tuxpaint/stamps"}
SIDE = 256  # pixels at most of a picture
CROP, SCALE, COLOUR, QUALITY = (0.8, 1.0), (0.5, 1.5), (0.7, 1.3), (30, 90)
LEAST_BITS, LEAST_GREY = 7, 10
SEED = 2  # of the pictures and their changes; the threshold was chosen on those of seed 1
WIDTH = 32  # of the embeddings
THRESHOLDS = (0.85, 0.88, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.97)
Image.MAX_IMAGE_PIXELS = None  # of large ones the size alone is read


def main(argv: list[str]) -> None:
    """Measure, print, and write the figures with --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000, help="at most, of each collection")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    rows = []
    for name, folder in FOLDERS.items():
        if not Path(folder).is_dir():
            sys.exit(f"error: there is no {folder}: apt-get install openclipart-png tuxpaint-stamps-default")
        row = {"pictures of": name, **measure(pictures(Path(folder), options.pictures))}
        print(json.dumps({key: value for key, value in row.items() if key != "thresholds"}), flush=True)
        rows.append(row)
    if options.output:
        report = {**machine(), "command": " ".join(["tests/benchmarks/duplicates.py", *argv]), "rows": rows}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def measure(found: list[Image.Image]) -> dict[str, Any]:
    """Half of the pictures are trained on; of these half are copied into the test set, beside as many new ones."""
    random = np.random.default_rng(SEED)
    half, quarter = len(found) // 2, len(found) // 4
    training, new = found[:half], found[half : half + quarter]
    test = [changed(picture, random) for picture in training[:quarter]] + new
    shards = [features(part, random) for part in (training[: half // 2], training[half // 2 :])]
    began = time.perf_counter()
    near = nearest(features(test, random), len(shards), lambda number: shards[number])
    seconds = time.perf_counter() - began
    planted = np.arange(len(test)) < quarter
    own = near.place[:, 0] * (half // 2) + near.place[:, 1] == np.arange(len(test))
    threshold = EvaluateOverlap().min_likeness
    return {
        "training": half,
        "planted": quarter,
        "new": len(new),
        "seconds": round(seconds, 1),
        "threshold": threshold,
        **scores(near.likeness >= threshold, planted),
        "of those found, with their own original": float(own[planted & (near.likeness >= threshold)].mean()),
        "thresholds": [{"threshold": one, **scores(near.likeness >= one, planted)} for one in THRESHOLDS],
    }


def scores(flagged: np.ndarray, planted: np.ndarray) -> dict[str, float]:
    """Recall and precision of what was flagged."""
    right = float((flagged & planted).sum())
    return {"recall": right / planted.sum(), "precision": right / max(1, flagged.sum())}


def pictures(folder: Path, count: int) -> list[Image.Image]:
    """Different pictures of a folder in random order, on white."""
    random = np.random.default_rng(SEED)
    files = sorted(
        path for path in folder.rglob("*.png") if not path.match("star_*step.png") and "alphabets" not in path.parts
    )
    found: list[Image.Image] = []
    hashes = np.zeros(0, np.uint64)
    for number in random.permutation(len(files)):
        if len(found) == count:
            break
        picture = opened(files[number])
        if picture is None or np.asarray(picture.convert("L")).std() < LEAST_GREY:
            continue
        code = np.uint64(phash(picture))
        if len(hashes) and np.bitwise_count(hashes ^ code).min() < LEAST_BITS:
            continue
        hashes = np.append(hashes, code)
        found.append(picture)
    return found


def opened(path: Path) -> Image.Image | None:
    """A picture on white; None where it is tiny or huge."""
    with Image.open(path) as picture:
        if min(picture.size) < 32 or max(picture.size) > 4000:
            return None
        drawn = picture.convert("RGBA")
    drawn.thumbnail((SIDE, SIDE))
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    return white.convert("RGB")


def changed(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """A copy, cropped, scaled, recoloured and compressed."""
    share = random.uniform(*CROP, 2)
    left, top = random.uniform(0, 1 - share)
    box = np.array([left, top, left + share[0], top + share[1]]) * np.tile(picture.size, 2)
    copy = picture.crop(tuple(box.round().astype(int).tolist()))
    scale = random.uniform(*SCALE)
    copy = copy.resize([max(16, round(scale * side)) for side in copy.size], Image.Resampling.BICUBIC)
    for change in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        copy = change(copy).enhance(random.uniform(*COLOUR))
    file = io.BytesIO()
    copy.save(file, "JPEG", quality=int(random.integers(*QUALITY)))
    return Image.open(file).convert("RGB")


def features(found: list[Image.Image], random: np.random.Generator) -> Features:
    """Thumbnails, with embeddings that say nothing."""
    images = random.normal(size=(len(found), WIDTH)).astype(np.float32)
    none = np.array([""] * len(found))
    return Features(
        keys=np.array([str(number) for number in range(len(found))]),
        labels=none,
        causes=none,
        images=images / np.linalg.norm(images, axis=1, keepdims=True),
        hidden=images,
        thumbnails=np.stack([small(picture) for picture in found]),
        captions=np.zeros(0, np.str_),
        owners=np.zeros(0, np.int64),
        texts=np.zeros((0, WIDTH), np.float32),
        seconds=np.zeros(1),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
