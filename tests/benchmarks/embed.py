"""`make bench`: embedding beside open_clip's encode in a plain loop, on the same shards and cores; and the search.

Photo-like JPEGs of 320 to 640 pixels a side become embeddings of ViT-B-32. open_clip has an environment of its own
(`.venv-peer`) and all cores for torch; cliploom decodes and encodes at once, through Ray Data. The sides take turns, in
fp32 and, where the processor has instructions for it, in bf16; each measurement is a process of its own, and batches
before the steady state are passed over. Of each side the better precision's median is shown.

    embed.py [--rounds N] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from machine import machine, precisions

import photos

HERE = Path(__file__).parent
PEER = HERE.parent.parent / ".venv-peer" / "bin" / "python"
CORES = len(os.sched_getaffinity(0))
MODEL, BATCH, WARM_UP = "ViT-B-32", 64, 4


def main(argv: list[str]) -> None:
    """Measure, print, and write the figures with --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times that the sides take turns")
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if not PEER.exists():
        sys.exit("error: there is no .venv-peer: run make bench")
    with tempfile.TemporaryDirectory() as folder:
        manifest = photos.write_shards(Path(folder), 4, options.images // 4)
        common = {"model": MODEL, "batch": BATCH, "warm_up": WARM_UP}
        theirs: dict[str, list[float]] = defaultdict(list)
        ours: dict[str, list[float]] = defaultdict(list)
        for precision in precisions() * options.rounds:
            request = {**common, "precision": precision, "folder": folder, "threads": CORES}
            theirs[precision].append(ask(PEER, "embed_peer.py", request)["images_a_second"])
            request = {**common, "precision": precision, "what": "embed", "manifest": manifest, "cpus": CORES}
            ours[precision].append(ask(Path(sys.executable), "embed_ours.py", request)["images_a_second"])
    slow, fast = (max(map(statistics.median, side.values())) for side in (theirs, ours))
    request = {"what": "search", "count": 100_000, "width": 512, "rounds": 50}
    found = ask(Path(sys.executable), "embed_ours.py", request)["milliseconds"]
    print(
        f"embed {MODEL}: open_clip {slow:.1f}, cliploom {fast:.1f} images/s on {CORES} cores, ratio {fast / slow:.2f}"
    )
    print(f"search among 100,000 embeddings of 512: {found:.1f} ms a query")
    if options.output:
        rows: dict[str, object] = {"open_clip": slow, "cliploom": fast, "ratio": fast / slow, "search_ms": found}
        rows |= {"runs": {"open_clip": theirs, "cliploom": ours}}
        report = {**machine(), "command": " ".join(["tests/benchmarks/embed.py", *argv]), **rows}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def ask(python: Path, side: str, request: dict[str, Any]) -> dict[str, float]:
    """A side's answer to a request, from a process of its own."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}:{HERE.parent.parent / 'platform'}"}
    done = subprocess.run([python, HERE / side, json.dumps(request)], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"error: {side} {json.dumps(request)} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    main(sys.argv[1:])
