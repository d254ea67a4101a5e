"""open_clip's encode in a plain loop, timed: runs in an environment that holds torch and open_clip alone.

    python embed_peer.py REQUEST    # a line of JSON; the answer is one

Request: {"folder", "model", "batch", "warm_up", "threads", "precision"}: tars of images, and batches that are passed
over.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from reference import import_open_clip


def main(request: dict[str, Any]) -> dict[str, float]:
    """Images a second: read, decoded, resized and encoded, batch by batch, on all cores that torch takes."""
    open_clip = import_open_clip()
    torch.set_num_threads(request["threads"])
    model, _, preprocess = open_clip.create_model_and_transforms(request["model"], force_quick_gelu=True)
    model.eval()
    done, began = 0, 0.0
    images = pictures(Path(request["folder"]))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=request["precision"] == "bf16"):
        for number in itertools.count(1 - request["warm_up"]):
            lot = list(itertools.islice(images, request["batch"]))
            if not lot:
                break
            pixels = torch.stack([preprocess(Image.open(io.BytesIO(data))) for data in lot])
            torch.nn.functional.normalize(model.encode_image(pixels).float(), dim=-1).numpy()
            if number == 0:
                began = time.perf_counter()
            elif number > 0:
                done += len(lot)
    return {"images_a_second": done / (time.perf_counter() - began)}


def pictures(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file and member.name.endswith(".jpg"):
                    yield file.read()


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
