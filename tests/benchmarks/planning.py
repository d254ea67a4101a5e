"""What the simulator says of this machine, beside what this machine does: decoding, batches, checkpoints.

Decoding's two numbers are fitted to images whose shorter side at rest is 224 and 512 pixels; 288 and 384 are what the
formula was not fitted to. One core, images of 224 pixels out.

    PYTHONPATH=tests python tests/benchmarks/planning.py [--output FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine
from PIL import Image

import photos
from cliploom.data import blocks, mixture, vocabulary
from cliploom.data.plan import WorkItem, work_items
from cliploom.data.reader import Reader, Source
from cliploom.settings.data import Data

SAMPLES, SIZE, ROUNDS = 256, 224, 7
MEMORY = blocks.Memory()
FITTED, HELD_OUT = (224, 512), (288, 384)


def main(argv: list[str]) -> None:
    """Measure, fit, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    measured = {shorter: decoding(shorter) for shorter in (*FITTED, *HELD_OUT)}
    (low, _), (high, _) = (measured[shorter] for shorter in FITTED)
    low_pixels, high_pixels = (measured[shorter][1] for shorter in FITTED)
    slope = (high - low) / (high_pixels - low_pixels)
    constant = low - slope * low_pixels
    rows: list[dict[str, Any]] = []
    for shorter, (seconds, pixels) in measured.items():
        said = constant + slope * pixels
        rows.append(
            {
                "shorter_side": shorter,
                "pixels": round(pixels),
                "samples_per_second_and_core": round(1 / seconds, 1),
                "said": round(1 / said, 1),
                "error": round(seconds / said - 1, 3),
                "fitted": shorter in FITTED,
            }
        )
    report = {
        **machine(),
        "command": " ".join(["tests/benchmarks/planning.py", *argv]),
        "decode_microseconds": round(constant * 1e6, 1),
        "decode_nanoseconds": round(slope * 1e9, 3),
        "decoding": rows,
    }
    print(json.dumps(report, indent=1))
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def decoding(shorter: int) -> tuple[float, float]:
    """Seconds of a core for a sample, and pixels of an image at rest, on average."""
    with tempfile.TemporaryDirectory() as folder:
        uri = photos.write_shards(Path(folder), 1, SAMPLES, shorter)
        found = mixture.choose(Data(manifest=uri))
        digest = vocabulary.clip().digest
        reader = Reader(Source(found.recipe, found.fingerprint, 0, 1, SIZE, (0.9, 1.0), None, digest))
        [item] = [WorkItem(*item) for item in work_items(0, 1, SAMPLES, 1, SAMPLES)]
        seconds = min(_core_seconds(reader, item) for _ in range(ROUNDS)) / SAMPLES
    sizes = [Image.open(io.BytesIO(data)).size for data in photos.jpegs(SAMPLES, 0, shorter)]
    return seconds, sum(width * height for width, height in sizes) / len(sizes)


def _core_seconds(reader: Reader, item: WorkItem) -> float:
    began = time.process_time()  # of all threads, without the waiting for a core that others use
    blocks.read(reader, [item], MEMORY)
    return time.process_time() - began


if __name__ == "__main__":
    main(sys.argv[1:])
