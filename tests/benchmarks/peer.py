"""open_clip's side of the measurements: runs in an environment that holds torch and open_clip alone.

    python peer.py REQUEST    # a line of JSON; the answer is one

Requests: {"what": "step" | "loss" | "tokenizer", ...} as in ours.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from measuring import best, extra_memory, load_batch
from torch import Tensor

from reference import import_open_clip


def step(request: dict[str, Any]) -> dict[str, float]:
    """Forward, loss, backward and AdamW of one batch."""
    open_clip = import_open_clip()
    pixels, tokens = load_batch(request["batch"])
    pure = request["precision"] == "pure_bf16"
    model = open_clip.create_model(
        request["model"], precision="pure_bf16" if pure else "fp32", force_quick_gelu=True
    ).train()
    if request["compile"]:
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    criterion = open_clip.ClipLoss()
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]

    def work() -> None:
        images = (pixels.float() / 255 - mean) / std
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=request["precision"] == "amp_bf16"):
            criterion(*model(images.bfloat16() if pure else images, tokens)).backward()
        optimizer.step()

    return {"seconds": best(work, request["rounds"])}


def loss(request: dict[str, Any]) -> dict[str, float]:
    """The loss with its gradients, by autograd."""
    criterion = import_open_clip().ClipLoss()
    scale = torch.tensor(14.3)

    def work(features: tuple[Tensor, Tensor]) -> None:
        image, text = (part.detach().requires_grad_() for part in features)
        criterion(image, text, scale).backward()

    return extra_memory(work, request["count"], request["width"], request["rounds"])


def tokenizer(request: dict[str, Any]) -> dict[str, float]:
    """Captions, first all of them new, then seen before."""
    texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
    made = import_open_clip().tokenizer.SimpleTokenizer()
    return {
        "cold_seconds": best(lambda: made(texts), 1, warm_up=False),
        "seconds": best(lambda: made(texts), request["rounds"]),
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    print(json.dumps({"step": step, "loss": loss, "tokenizer": tokenizer}[asked["what"]](asked)))
