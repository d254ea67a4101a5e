"""`make bench`: training through Ray Data, Ray Train and DeepSpeed, beside the same step in a bare loop; and saves.

Two workers on the same cores, each side in a process tree of its own; the sides take turns, and medians of the rounds
are shown, of ratios as well. The bare loop has its data in memory, and holds its memory as the platform's workers do
(`allocator`) or, the plain one, as Python does by default. In the workers of Ray Train, and with the time that reading
its samples takes of the same cores, it is the bound of what can be had through Ray here. The platform reads JPEGs,
reports as often as it does by default, and has one worker killed after its checkpoint; it is timed when what was read
ahead at the start is used up, and reading goes on as fast as training.

    training.py [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import machine, precisions
from rich.console import Console
from rich.table import Table

from cliploom import allocator

HERE = Path(__file__).parent
CORES = 2  # that the sides share, a worker each
SIDES = ("plain", "bare", "within", "platform")
TITLES = {
    "plain": "bare loop with the default allocator, samples/s",
    "bare": "bare loop, samples/s",
    "within": "bare loop in Ray Train's workers, samples/s",
    "bound": "that and reading, the bound, samples/s",
    "platform": "platform, samples/s",
    "of plain": "platform / bare loop with the default allocator",
    "of bare": "platform / bare loop",
    "of within": "platform / bare loop in Ray Train's workers",
    "of bound": "platform / bound",
    "read_milliseconds": "reading a sample, ms of a core",
    "step_seconds": "a step of the platform's, s",
    "data_wait_seconds": "of it waiting for data, s",
    "fit_to_first_step_seconds": "from fit to the first step, s",
    "restart_seconds": "lost by a killed worker, steps retaken apart, s",
    "copy_seconds": "copying the state, s",
    "held_seconds": "a save holds the loop, s",
    "held_of_copy": "held / copying",
    "written_seconds": "until it is committed, s",
    "samples_a_second": "no save, samples/s",
    "samples_a_second_beside_a_save": "beside a save, samples/s",
    "state_mib": "a worker's state, MiB",
}


def main(argv: list[str]) -> None:
    """Measure, print a table, and write the figures with --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-S-32")
    parser.add_argument("--batch", type=int, default=16, help="samples a step, of two workers")
    parser.add_argument("--rounds", type=int, default=3, help="times that the sides take turns")
    parser.add_argument("--steps", type=int, default=40, help="that are timed in a round, a multiple of 10")
    parser.add_argument("--saves", type=int, default=3, help="in a round")
    parser.add_argument("--stage", type=int, default=1, help="of ZeRO")
    parser.add_argument("--precisions", nargs="+", default=precisions())
    parser.add_argument("--what", nargs="+", default=[*SIDES, "save"])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    rows = {precision: measure(precision, options) for precision in options.precisions}
    table = Table(title=f"{options.model}, {options.batch} samples a step, ZeRO {options.stage}", title_justify="left")
    for column in ("", *rows):
        table.add_column(column, justify="right" if column else "left")
    for key, title in TITLES.items():
        table.add_row(title, *(f"{row[key]:,.2f}" if key in row else "" for row in rows.values()))
    Console(width=120).print(table)
    if options.output:
        asked = {key: getattr(options, key) for key in ("model", "batch", "rounds", "steps", "saves", "stage")}
        report = {**machine(), "command": " ".join(["tests/benchmarks/training.py", *argv]), **asked, "rows": rows}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def measure(precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a precision: medians over the rounds, and the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        rounds = [take_turns(precision, options, folder) for _ in range(options.rounds)]
    return {key: statistics.median(found[key] for found in rounds) for key in rounds[0]} | {"rounds": rounds}


def take_turns(precision: str, options: argparse.Namespace, folder: str) -> dict[str, float]:
    """The figures of one round."""
    found: dict[str, float] = {}
    for what in options.what:
        request = {**vars(options), "output": None, "what": what, "precision": precision, "folder": folder}
        answer = ask(request)
        print(precision, what, answer, flush=True)
        if what in SIDES:
            found[what] = options.batch / answer["step_seconds"]
        found |= answer
    if "within" in found:
        found["bound"] = 1 / (1 / found["within"] + found["read_milliseconds"] / 1000 / CORES)
    if "platform" in found:
        found |= {f"of {side}": found["platform"] / found[side] for side in (*SIDES[:-1], "bound") if side in found}
    return found


def ask(request: dict[str, Any]) -> dict[str, float]:
    """A side's answer to a request."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        **(allocator.ENVIRONMENT if request["what"] != "plain" else {}),
    }
    command = [sys.executable, str(HERE / "training_sides.py"), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"error: {json.dumps(request)} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    main(sys.argv[1:])
