"""cliploom's embedding through Ray Data, and its search, timed.

    python embed_ours.py REQUEST    # a line of JSON; the answer is one

Requests: {"what": "embed", "manifest", "model", "batch", "warm_up", "cpus", "precision"}: batches that are passed over;
{"what": "search", "count", "width", "rounds"}: milliseconds of one query, the median.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cliploom import models
from cliploom.cluster import connect
from cliploom.embedding import search, sources
from cliploom.embedding.store import EmbeddingStore
from cliploom.evaluation import features
from cliploom.evaluation import model as published
from cliploom.evaluation.features import Done
from cliploom.models import weights
from cliploom.settings.cluster import Ray
from cliploom.settings.embedding import Embed


def embed(request: dict[str, Any]) -> dict[str, float]:
    """Images a second from the end of the warm-up to the last batch."""
    marks: list[tuple[float, int]] = []

    def mark(done: Done) -> None:
        marks.append((time.perf_counter(), done.images))

    with tempfile.TemporaryDirectory() as folder, connect(Ray(cpus=request["cpus"])):
        weights.save(models.create(models.preset(request["model"]), seed=0), Path(folder, "weights"))
        model = published.publish(Path(folder, "weights"), f"{folder}/model", "bench")
        found = sources.find(request["manifest"])
        store = EmbeddingStore(f"{folder}/embeddings", model, {one.digest: sources.place(one) for one in found})
        # All cores but the half that a decoding task reserves; torch gets a thread for each, rounded.
        settings = Embed(
            batch_size=request["batch"],
            precision=request["precision"],
            cpus_per_worker=request["cpus"] - 0.5,
            cpus_per_task=0.5,
        )
        features.extract(found, store, model, settings, mark)
    (began, first), (ended, last) = marks[request["warm_up"] - 1], marks[-1]
    return {"images_a_second": (last - first) / (ended - began)}


def find(request: dict[str, Any]) -> dict[str, float]:
    """One query among many embeddings, of which each round asks another."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(request["count"], request["width"])).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    times = []
    for query in vectors[: request["rounds"]]:
        began = time.perf_counter()
        search.nearest(vectors, query, 20)
        times.append(time.perf_counter() - began)
    return {"milliseconds": 1000 * statistics.median(times)}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps({"embed": embed, "search": find}[asked["what"]](asked)))
