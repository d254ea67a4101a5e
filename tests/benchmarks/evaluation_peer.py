"""CLIP_benchmark's side of the measurements: runs in the environment of the peers.

    python evaluation_peer.py REQUEST    # a line of JSON; the answer is the last line printed

It is its own code that runs: its reader of shards, the loader as its command line makes it, its classifier and metrics.
Its linear probe asserts a GPU, so of that only the pass over the images is timed, which is in its favour.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from reference import import_open_clip

began = time.perf_counter()
open_clip = import_open_clip()
from clip_benchmark.datasets.builder import build_wds_dataset  # noqa: E402
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval  # noqa: E402
from clip_benchmark.metrics.linear_probe import Featurizer  # noqa: E402


class Clocked:
    """A loader that notes when each batch is asked for, and how many images there were."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.times: list[float] = []
        self.images: list[int] = []

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            self.times.append(time.perf_counter())
            self.images.append(len(batch[0]))
            yield batch

    def rate(self, ended: float, warm_up: int) -> float:
        """Images a second after so many batches."""
        return sum(self.images[warm_up:]) / (ended - self.times[warm_up])


def main(request: dict[str, Any]) -> dict[str, Any]:
    """One task on one data set."""
    from safetensors.torch import load_file

    torch.set_num_threads(request["threads"])
    model, _, transform = open_clip.create_model_and_transforms(request["model"] + "-quickgelu")
    model.load_state_dict(load_file(Path(request["weights"]) / "weights.safetensors"))
    model.eval()
    tokenizer = open_clip.get_tokenizer(request["model"])
    started = time.perf_counter() - began
    answer: dict[str, Any] = {"start-up": started}
    first = time.perf_counter()
    for split in request["splits"]:
        dataset = build_wds_dataset("set", transform, split=split, data_dir=request["root"])
        loader = Clocked(
            torch.utils.data.DataLoader(
                dataset.batched(request["batch"]), batch_size=None, shuffle=False, num_workers=request["workers"]
            )
        )
        if request["task"] == "zeroshot_classification":
            templates = request["templates"] or dataset.templates
            classifier = zeroshot_classification.zero_shot_classifier(
                model, tokenizer, dataset.classes, templates, "cpu", amp=request["amp"]
            )
            logits, truth = zeroshot_classification.run_classification(
                model, classifier, loader, "cpu", amp=request["amp"]
            )
            answer["acc1"] = float((logits.argmax(1) == truth).float().mean())
        elif request["task"] == "zeroshot_retrieval":
            found = zeroshot_retrieval.evaluate(model, loader, tokenizer, "cpu", amp=request["amp"])
            answer.update({name: float(value) for name, value in found.items()})
        else:
            featurizer = Featurizer(model)
            with torch.no_grad(), torch.autocast("cpu", enabled=request["amp"]):
                for images, _ in loader:
                    featurizer(images)
        answer["images/s"] = loader.rate(time.perf_counter(), request["warm_up"])
    return {**answer, "seconds": time.perf_counter() - first}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
