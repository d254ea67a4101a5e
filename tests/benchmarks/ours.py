"""cliploom's side of the measurements.

    python ours.py REQUEST    # a line of JSON; the answer is one

Requests: {"what": "step", "model", "batch": FILE, "precision", "compile", "threads", "rounds"},
{"what": "loss", "count", "width", ...}, {"what": "tokenizer", "texts": FILE, ...},
{"what": "peak", "precision", ...}: the FLOP rate of a large matrix product,
{"what": "flops", "model", "batch"}: operations of forward and backward of the batch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from measuring import best, extra_memory, load_batch
from torch import Tensor

from cliploom import models
from cliploom.data.tokenizer import Tokenizer
from cliploom.models.norm import move_statistics, norms
from cliploom.objectives import Ranks, contrastive
from cliploom.training.step import MicroBatch, loss_and_gradients

BUCKETS = 1  # of captions: the default; more of them pay at larger batches


class Network:
    """A bare model, as the step takes it."""

    device = torch.device("cpu")

    def __init__(self, model: models.CLIP) -> None:
        self.model, self.dtype = model, model.text_projection.dtype

    def forward(self, *inputs: Any) -> Any:
        return self.model(*inputs)

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()


def step(request: dict[str, Any]) -> dict[str, float]:
    """Forward, loss, backward and AdamW of one batch; in bf16 AdamW steps fp32 masters, which are copied back."""
    pixels, tokens = load_batch(request["batch"])
    model = models.create(models.preset(request["model"]), seed=0)
    masters: list[Tensor] = list(model.parameters())
    if request["precision"] == "bf16":
        masters = [parameter.detach().clone() for parameter in masters]
        for master in masters:
            master.grad = torch.zeros_like(master)
        model.to(torch.bfloat16)
    if request["compile"]:
        models.compile_blocks(model)
    optimizer = torch.optim.AdamW(masters, lr=1e-5, fused=True)
    network, ranks = Network(model), Ranks([len(pixels)])

    def work() -> None:
        model.zero_grad()
        micro = MicroBatch(pixels, tokens.int())
        loss_and_gradients(network, [micro], ranks, BUCKETS, contrastive, lambda _: True)
        move_statistics(norms(model))
        parameters = list(model.parameters())
        if request["precision"] == "bf16":
            torch._foreach_copy_(
                [m.grad for m in masters if m.grad is not None], [p.grad for p in parameters if p.grad is not None]
            )
        optimizer.step()
        if request["precision"] == "bf16":
            torch._foreach_copy_([parameter.detach() for parameter in parameters], list(masters))

    return {"seconds": best(work, request["rounds"])}


def loss(request: dict[str, Any]) -> dict[str, float]:
    """The loss with its gradients, tile by tile."""

    def work(features: tuple[Tensor, Tensor]) -> None:
        contrastive(features, torch.tensor([14.3]), Ranks([len(features[0])]))

    return extra_memory(work, request["count"], request["width"], request["rounds"])


def tokenizer(request: dict[str, Any]) -> dict[str, float]:
    """Captions, first all of them new, then seen before."""
    texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
    made = Tokenizer()
    return {
        "cold_seconds": best(lambda: made(texts), 1, warm_up=False),
        "seconds": best(lambda: made(texts), request["rounds"]),
    }


def peak(request: dict[str, Any]) -> dict[str, float]:
    """FLOP/s of a matrix product."""
    a, b = (torch.randn(4096, 4096).to(getattr(torch, request["precision"])) for _ in range(2))
    return {"flops": 2 * 4096**3 / best(lambda: a @ b, request["rounds"])}


def flops(request: dict[str, Any]) -> dict[str, float]:
    """Operations of the step, counted by torch on the shapes that are computed; backward is twice the forward."""
    from torch.utils.flop_counter import FlopCounterMode

    pixels, tokens = load_batch(request["batch"])
    with torch.device("meta"):
        model = models.CLIP(models.preset(request["model"])).eval()
    with FlopCounterMode(display=False) as image, torch.no_grad():
        model.encode_image(torch.empty(1, *pixels.shape[1:], device="meta"))
    total = image.get_total_flops() * len(pixels)
    for length in (tokens.argmax(-1) + 1).tolist():
        with FlopCounterMode(display=False) as text, torch.no_grad():
            model._encode_texts([torch.empty(1, length, dtype=torch.int64, device="meta")])
        total += text.get_total_flops()
    return {"flops": 3.0 * total}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    kinds = {"step": step, "loss": loss, "tokenizer": tokenizer, "peak": peak, "flops": flops}
    print(json.dumps(kinds[asked["what"]](asked)))
