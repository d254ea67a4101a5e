"""open_clip's WebDataset pipeline, timed: runs in an environment that holds torch and open_clip alone.

    python data_peer.py REQUEST    # a line of JSON; the answer is one

Request: {"shards": PATTERN, "image_size", "batch", "workers", "warm_up", "batches"}: batches that are passed over, and
those that are timed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch
from memory import Memory

from reference import import_open_clip


def main(request: dict[str, Any]) -> dict[str, float]:
    """Samples a second of its loader as its training script makes it."""
    open_clip = import_open_clip()
    from open_clip_train.data import get_wds_dataset

    torch.set_num_threads(1)
    count = request["warm_up"] + request["batches"]
    settings = argparse.Namespace(
        train_data=request["shards"],
        train_num_samples=count * request["batch"],
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=request["batch"],
        workers=request["workers"],
        world_size=1,
        seed=0,
    )
    transform = open_clip.transform.image_transform(request["image_size"], is_train=True)  # random resized crop, 0.9-1
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    with Memory() as memory:
        loader = get_wds_dataset(settings, transform, is_train=True, tokenizer=tokenizer).dataloader
        rate = timed((len(images) for images, _ in loader), request["warm_up"], request["batches"])
    return {"samples_a_second": rate, "pss_mib": memory.peak / 2**20}


def timed(sizes: Any, warm_up: int, batches: int) -> float:
    """Samples a second over `batches` batches after `warm_up` of them."""
    for _ in range(warm_up):
        next(sizes)
    began = time.perf_counter()
    samples = sum(next(sizes) for _ in range(batches))
    return samples / (time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
