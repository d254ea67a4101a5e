"""`make bench`: the data plane beside open_clip's WebDataset pipeline, on the same shards and cores, in one run.

Photo-like JPEGs of 320 to 640 pixels a side, and the same resized at rest to a shorter side of 256, become batches of
224 pixels by the random resized crop (scale 0.9 to 1, bicubic), captions become tokens. open_clip has an environment of
its own (`.venv-peer`) and its best number of workers; cliploom reads through Ray Data into two workers that count, from
local files and from SeaweedFS over loopback into an empty cache. The kernel is the same batches read by plain processes
without Ray; read by Ray's tasks, without Ray Data, they are the bound of any stream through its object store on
these cores. The sides take turns, each measurement is a process tree of its own, whose peak of proportional set size
is stated. Two windows of shards are passed over, in which what is read ahead fills; what is measured is read for the
first time.

    data.py [--output FILE]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import machine
from rich.console import Console
from rich.table import Table

import photos
import servers
from cliploom import storage

HERE = Path(__file__).parent
PEER = HERE.parent.parent / ".venv-peer" / "bin" / "python"
SHARDS, COPIES, SAMPLES = 8, 16, 256  # 128 shards: eight windows of 16
WINDOW_BATCHES = 8  # of each of two workers
READ_AHEAD = 12  # batches of a worker, at most: they would be of the next epoch
BATCH, SIZE = 256, 224
Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Measure, print a table, and write the figures with --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times that the sides take turns; medians are shown")
    parser.add_argument("--batches", type=int, default=24, help="batches of open_clip that are timed")
    parser.add_argument("--peer-workers", type=int, nargs="+", default=[1, 2, 3], help="of open_clip's loader")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if not PEER.exists():
        sys.exit("error: there is no .venv-peer: run make bench")
    rows = []
    with servers.seaweedfs(Path(tempfile.mkdtemp())) as endpoint:
        os.environ.update(servers.s3_environment(endpoint))
        for what, shorter in (("320-640 px", None), ("resized at rest to 256", 256)):
            with tempfile.TemporaryDirectory() as folder:
                photos.write_shards(Path(folder), SHARDS, SAMPLES, shorter, COPIES)
                rows.append({"images": what, **compare(Path(folder), to_s3(Path(folder)), options)})
    show(rows)
    if options.output:
        report = {**machine(), "command": " ".join(["tests/benchmarks/data.py", *argv]), "rows": rows}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def to_s3(folder: Path) -> str:
    """The folder's files on S3; returns their URI there."""
    import boto3

    bucket = f"photos-{secrets.token_hex(4)}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    for file in sorted(folder.iterdir()):
        storage.upload(file, f"s3://{bucket}/{file.name}")
    return f"s3://{bucket}"


def compare(folder: Path, remote: str, options: argparse.Namespace) -> Row:
    """Medians over rounds, of open_clip's best."""
    shared = {"image_size": SIZE, "batch": BATCH}
    pattern = str(folder / f"{{{0:05d}..{SHARDS * COPIES - 1:05d}}}.tar")
    ours = {"warm_up": 2 * WINDOW_BATCHES, "batches": 6 * WINDOW_BATCHES - READ_AHEAD}
    sides: dict[str, Row] = {
        f"open_clip, {count} workers": {
            "shards": pattern,
            "workers": count,
            "warm_up": max(2, 2 * count),
            "batches": options.batches,
        }
        for count in options.peer_workers
    }
    sides |= {
        "stream": {"what": "stream", "manifest": str(folder), **ours},
        "kernel": {"what": "kernel", "manifest": str(folder), **ours},
        "tasks": {"what": "tasks", "manifest": str(folder), **ours},
        "stream from S3": {"what": "stream", "manifest": remote, **ours},
    }
    found: dict[str, list[Row]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, request in sides.items():
            found[side].append(ask(PEER if "workers" in request else Path(sys.executable), shared | request))
            print(side, found[side][-1], flush=True)
    medians = {
        side: {key: statistics.median(answer[key] for answer in answers) for key in answers[0]}
        for side, answers in found.items()
    }
    rate = {side: float(medians[side]["samples_a_second"]) for side in sides}
    theirs = max((side for side in sides if "workers" in sides[side]), key=lambda side: rate[side])
    return {
        "open_clip": rate[theirs],
        "open_clip ran": theirs,
        "cliploom": rate["stream"],
        "kernel": rate["kernel"],
        "tasks": rate["tasks"],
        "cliploom from S3": rate["stream from S3"],
        "of open_clip": rate["stream"] / rate[theirs],
        "of kernel": rate["stream"] / rate["kernel"],
        "of bound": rate["stream"] / rate["tasks"],
        "S3 of local": rate["stream from S3"] / rate["stream"],
        "open_clip MiB": medians[theirs]["pss_mib"],
        "cliploom MiB": medians["stream"]["pss_mib"],
        "rounds": found,
    }


def ask(python: Path, request: Row) -> Row:
    """A side's answer to a request, from a process of its own, with an empty cache of shards."""
    side = HERE / ("data_peer.py" if python == PEER else "data_ours.py")
    with tempfile.TemporaryDirectory() as cache:
        own = {"PYTHONPATH": f"{HERE}:{HERE.parent}", "OMP_NUM_THREADS": "1", "CLIPLOOM_CACHE": cache}
        command: list[str | Path] = [python, side, json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own})
    if done.returncode:
        sys.exit(f"error: {side.name} {json.dumps(request)} failed:\n{done.stderr[-2000:]}")
    answer: Row = json.loads(done.stdout.splitlines()[-1])
    return answer


def show(rows: list[Row]) -> None:
    """The table."""
    table = Table(
        title=f"{datetime.date.today()}, {len(os.sched_getaffinity(0))} cores, samples/s", title_justify="left"
    )
    columns = ("images", "open_clip", "cliploom", "kernel", "Ray's tasks", "from S3", "of open_clip", "of kernel")
    for column in (*columns, "of bound", "S3 of local", "peak PSS, MiB"):
        table.add_column(column, justify="left" if column == "images" else "right")
    for row in rows:
        table.add_row(
            row["images"],
            f"{row['open_clip']:,.0f}\n({row['open_clip ran'].removeprefix('open_clip, ')})",
            f"{row['cliploom']:,.0f}",
            f"{row['kernel']:,.0f}",
            f"{row['tasks']:,.0f}",
            f"{row['cliploom from S3']:,.0f}",
            f"{row['of open_clip']:.2f}",
            f"{row['of kernel']:.2f}",
            f"{row['of bound']:.2f}",
            f"{row['S3 of local']:.2f}",
            f"{row['open_clip MiB']:,.0f} -> {row['cliploom MiB']:,.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
