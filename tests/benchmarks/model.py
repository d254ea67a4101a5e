"""`make bench`: training step, loss and tokenizer beside open_clip's, on this machine's CPU, in one run.

open_clip has an environment of its own (`.venv-peer`, made by `make bench`), each measurement a process of its own, and
the two sides take turns. Each gets its best of threads, of compiling or not, and of huge pages or not; open_clip in
bf16 of autocast and of bf16 weights. Ratios are of samples a second. The bound is what a matrix product's FLOP rate
would allow for the operations that the step needs, backward taken as twice forward.

    model.py [PRESET ...]    by default ViT-B-32 in depth, and the other presets of the paper with 77-token captions
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from rich.console import Console
from rich.table import Table

from cliploom import models
from cliploom.data.pieces import SYMBOLS
from cliploom.data.tokenizer import Tokenizer

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEER, OURS = ROOT / ".venv-peer" / "bin" / "python", Path(sys.executable)
CORES = len(os.sched_getaffinity(0))
SENTENCE = "a photo of the small red dog that runs over green grass near an old stone house by the river in summer"
WORDS = SENTENCE.split()
# Samples a step of the other presets: what a step of some ten seconds has.
BATCHES = {
    "RN50": 8,
    "RN101": 8,
    "RN50x4": 8,
    "RN50x16": 4,
    "RN50x64": 2,
    "ViT-B-16": 8,
    "ViT-L-14": 4,
    "ViT-L-14-336": 4,
}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
PRECISIONS = {"fp32": ["fp32"], "bf16": ["amp_bf16", "pure_bf16"]}  # ours: open_clip's
Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Measure, print a table, and write the figures with --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="steps of these alone, with 77-token captions")
    parser.add_argument("--first", action="store_true", help="ViT-B-32, the loss and the tokenizer alone")
    parser.add_argument("--batch", type=int, default=16, help="samples a step of ViT-B-32")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if not PEER.exists():
        sys.exit("error: there is no .venv-peer: run make bench")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if not options.presets:
            rows += steps("ViT-B-32", options.batch, ("natural", "full"), options.precisions, True, Path(folder))
            rows += [loss(), *tokenizer(Path(folder))]
        for name in options.presets or ([] if options.first else BATCHES):
            rows += steps(name, BATCHES.get(name, options.batch), ("full",), options.precisions, False, Path(folder))
    show(rows)
    if options.output:
        report = {**machine(), "command": " ".join(["tests/benchmarks/model.py", *argv]), "rows": rows}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def steps(
    name: str, batch: int, captions: tuple[str, ...], precisions: list[str], thorough: bool, folder: Path
) -> list[Row]:
    """Training steps of a preset; `thorough` tries all that might be faster."""
    rows = []
    files = {kind: str(write_batch(name, batch, kind, folder)) for kind in captions}
    for precision in precisions:
        request = {"what": "step", "model": name, "rounds": 3 if thorough else 2}
        tried = [way for p in PRECISIONS[precision] for way in ways(p, thorough)]
        slow = fastest(PEER, request | {"batch": files[captions[0]]}, tried)  # of captions of any length: it cuts none
        peak = {"what": "peak", "precision": DTYPES[precision], "threads": CORES, "huge pages": True, "rounds": 5}
        rate = ask(OURS, peak)["flops"]
        for kind, file in files.items():
            fast = fastest(OURS, request | {"batch": file}, ways(precision, thorough))
            count = {"what": "flops", "model": name, "batch": file, "threads": 1, "huge pages": False}
            bound = batch * rate / ask(OURS, count)["flops"]
            words = "12-word" if kind == "natural" else "77-token"
            what = f"step, {name}, batch {batch}, {precision}, {words} captions"
            rows.append(compared(what, "samples/s", batch / slow["seconds"], batch / fast["seconds"]))
            rows[-1] |= {"open_clip ran": slow["ran"], "cliploom ran": fast["ran"], "bound": bound}
            rows[-1] |= {"reached": rows[-1]["cliploom"] / bound}
            print(rows[-1], flush=True)
    return rows


def ways(precision: str, thorough: bool) -> list[Row]:
    """Ways to run a step. One thread less is tried where nothing is compiled: a compiler does not turn the order."""
    found = [{"precision": precision, "compile": False, "threads": CORES, "huge pages": True}]
    if thorough:
        plain = found[0] | {"huge pages": False}
        found += [plain, plain | {"threads": CORES - 1 or 1}, plain | {"compile": True}, found[0] | {"compile": True}]
    return found


def fastest(python: Path, request: Row, choices: Sequence[Row]) -> Row:
    """The answer of the fastest of all choices, with what was chosen."""
    answers = []
    for choice in choices:
        words = [choice["precision"], f"{choice['threads']} threads"]
        words += [word for word, on in (("compiled", choice["compile"]), ("huge pages", choice["huge pages"])) if on]
        answers.append(ask(python, request | choice) | {"ran": ", ".join(words)})
    return min(answers, key=lambda answer: float(answer["seconds"]))


def ask(python: Path, request: Row) -> Row:
    """A side's answer to a request, from a process of its own."""
    side = HERE / ("peer.py" if python == PEER else "ours.py")
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}", "OMP_NUM_THREADS": str(request["threads"])}
    environment["THP_MEM_ALLOC_ENABLE"] = str(int(request["huge pages"]))  # our training workers have it on
    done = subprocess.run([python, side, json.dumps(request)], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"error: {side.name} {json.dumps(request)} failed:\n{done.stderr[-2000:]}")
    answer: Row = json.loads(done.stdout.splitlines()[-1])
    return answer


def loss(count: int = 16384, width: int = 512) -> Row:
    """The loss with its gradients."""
    request = {"what": "loss", "count": count, "width": width, "threads": CORES, "rounds": 3}
    slow, fast = (ask(side, request | {"huge pages": side == OURS}) for side in (PEER, OURS))
    row = compared(f"loss, N={count}, d={width}, fp32", "samples/s", count / slow["seconds"], count / fast["seconds"])
    row |= {"open_clip MiB": slow["mebibytes"], "cliploom MiB": fast["mebibytes"]}
    print(row, flush=True)
    return row | {"memory ratio": fast["mebibytes"] / slow["mebibytes"]}


def tokenizer(folder: Path) -> list[Row]:
    """Captions a second: new ones, and those seen before."""
    texts = common_captions(20000, 1)
    (folder / "texts.json").write_text(json.dumps(texts))
    request = {"what": "tokenizer", "texts": str(folder / "texts.json"), "threads": 1, "rounds": 3, "huge pages": False}
    slow, fast = ask(PEER, request), ask(OURS, request)
    return [
        compared(f"tokenizer, 12 words, {kind}", "captions/s", len(texts) / slow[key], len(texts) / fast[key])
        for kind, key in (("seen words", "seconds"), ("a fresh process", "cold_seconds"))
    ]


def make_captions(count: int, seed: int) -> list[str]:
    """Captions of natural length: 5 to 19 words, 12 in the mean."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(5, 20))) for _ in range(count)]


def common_captions(count: int, seed: int) -> list[str]:
    """Captions of as many words, of those that CLIP has a token for, drawn by Zipf's law."""
    merges = gzip.decompress((ROOT / "platform/cliploom/data/clip_vocabulary.bpe").read_bytes()).decode()
    tokens = ["".join(line.split()) for line in merges.splitlines()[1:]]
    whole = [token.removesuffix("</w>") for token in tokens if token.endswith("</w>")]
    bytes_of = {symbol: chr(byte) for byte, symbol in SYMBOLS.items()}
    spelled = ["".join(map(bytes_of.__getitem__, token)).encode("latin-1") for token in whole]
    words = [word for token in spelled if (word := token.decode(errors="ignore")).encode() == token]
    random = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(words) + 1)
    drawn = random.choice(words, (count, 19), p=share / share.sum())
    return [" ".join(row[:length]) for row, length in zip(drawn, random.integers(5, 20, count), strict=True)]


def write_batch(name: str, batch: int, kind: str, folder: Path) -> Path:
    """A file of random pixels and of captions."""
    size = models.preset(name).image_size
    pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    tokens = Tokenizer()(make_captions(batch, 0))
    if kind == "full":
        tokens = torch.full((batch, 77), 320)
        tokens[:, 0], tokens[:, -1] = 49406, 49407
    file = folder / f"{name}-{kind}.pt"
    torch.save({"pixels": pixels, "tokens": tokens.long()}, file)
    return file


def compared(what: str, unit: str, theirs: float, ours: float) -> Row:
    return {"what": what, "unit": unit, "open_clip": theirs, "cliploom": ours, "ratio": ours / theirs}


def show(rows: list[Row]) -> None:
    """The table."""
    table = Table(title=f"{datetime.date.today()}, {len(os.sched_getaffinity(0))} cores", title_justify="left")
    for column in ("what", "open_clip", "cliploom", "ratio", "bound", "reached"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        details = (
            f"\nopen_clip: {row['open_clip ran']}; cliploom: {row['cliploom ran']}" if "cliploom ran" in row else ""
        )
        if "memory ratio" in row:
            details = (
                f"\nmemory {row['open_clip MiB']:,.0f} -> {row['cliploom MiB']:,.0f} MiB, {row['memory ratio']:.3f}"
            )
        table.add_row(
            row["what"] + details,
            f"{row['open_clip']:,.2f}",
            f"{row['cliploom']:,.2f}",
            f"{row['ratio']:.2f}",
            f"{row['bound']:,.2f}" if "bound" in row else "",
            f"{row['reached']:.0%}" if "bound" in row else "",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
