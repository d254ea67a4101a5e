"""`make bench`: evaluation beside CLIP_benchmark, on the same photo-like JPEGs, model, weights and cores.

`zeroshot`: images/s of one zero-shot evaluation in steady state; of CLIP_benchmark the best of its numbers of workers,
with its mixed precision and without, of cliploom the best of its precisions (fp32 alone where the processor has no
instructions for bf16). `suite`: with those, seconds of a suite of tasks on one model: zero-shot by the ensemble of
prompts, by the first one and by the name alone, retrieval on the same pictures, linear probe and few-shot probes.
CLIP_benchmark makes a run of each and reads the pictures anew; its probes can't run without a GPU, so that of theirs
the pass over the pictures is counted alone. Start-up (imports, model, Ray) is apart in both.

    evaluation.py [--images N] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from machine import machine, precisions

import evaluation_sets as sets
import photos
from cliploom.settings.base import Precision

HERE = Path(__file__).parent
PEER = HERE.parent.parent / ".venv-peer" / "bin" / "python"
MODEL, BATCH, WARM_UP = "ViT-B-32", 32, 2
CLASSES = 10
TEMPLATES = ("a photo of a {c}.", "a picture of a {c}.", "a {c}.", "the {c} in a photo.")
TASKS = "[zeroshot_classification, linear_probe, few_shot]"
SUITE = f"- {{dataset: things, tasks: {TASKS}}}\n- {{dataset: captions, tasks: [zeroshot_retrieval]}}\n"
Row = dict[str, Any]


class Peer(NamedTuple):
    """How CLIP_benchmark runs."""

    workers: int
    amp: bool

    def __str__(self) -> str:
        return f"{self.workers} workers, {'mixed precision' if self.amp else 'fp32'}"


def main(argv: list[str]) -> None:
    """Measure, print, and write the figures with --output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=384, help="of the test split; the training split has half")
    parser.add_argument("--peer-workers", type=int, nargs="+", default=[0, 1, 2], help="of CLIP_benchmark's loader")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if not PEER.exists():
        sys.exit("error: there is no .venv-peer: run make bench")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, options.images)
        once, how, precision = zeroshot(folder, options)
        rows = {"zeroshot": once, "suite": suite(folder, how, precision)}
    print(json.dumps({part: {k: v for k, v in row.items() if k != "runs"} for part, row in rows.items()}, indent=1))
    if options.output:
        report = {**machine(), "command": " ".join(["tests/benchmarks/evaluation.py", *argv]), "model": MODEL, **rows}
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def make(folder: Path, images: int) -> None:
    """The model, and pictures with classes and captions: one set to classify and one to retrieve from, of the same."""
    from cliploom import models
    from cliploom.models import weights

    weights.save(models.create(models.preset(MODEL), seed=0), folder / "weights")
    names = [f"{word} {other}" for word in photos.WORDS for other in photos.WORDS][:CLASSES]
    for split, count, seed in (("test", images, 0), ("train", images // 2, 1)):
        files: list[dict[str, bytes]] = [{}, {}]
        for number, jpeg in enumerate(photos.jpegs(count, seed)):
            name = names[number % CLASSES]
            key = f"{split}{number:05d}"
            files[number % 2] |= {f"{key}.jpg": jpeg, f"{key}.cls": b"%d" % (number % CLASSES)}
            files[number % 2] |= {f"{key}.txt": f"a {name}, number {number}".encode()}
        for kind, root in (("classification", "things"), ("retrieval", "captions")):
            sets.write_layout(folder / root, files, kind, names, TEMPLATES, split)
    (folder / "suite.yaml").write_text(SUITE)
    (folder / "one.yaml").write_text("- {dataset: things, tasks: [zeroshot_classification], metrics: [acc1]}\n")


def zeroshot(folder: Path, options: argparse.Namespace) -> tuple[Row, Peer, Precision]:
    """Images a second, and how each side came by its best."""
    modes = [precision == "bf16" for precision in precisions()]
    theirs = {
        how: peer(folder, "things", "zeroshot_classification", how)
        for how in (Peer(workers, amp) for workers in options.peer_workers for amp in modes)
    }
    mine = {precision: ours(folder, "one.yaml", precision) for precision in precisions()}
    best = max(theirs, key=lambda how: float(theirs[how]["images/s"]))
    own = max(mine, key=lambda precision: float(mine[precision]["images/s"]))
    plain = Peer(options.peer_workers[-1], amp=False)
    row = {
        "CLIP_benchmark, images/s": theirs[best]["images/s"],
        "CLIP_benchmark ran": str(best),
        "cliploom, images/s": mine[own]["images/s"],
        "cliploom ran": own,
        "of CLIP_benchmark": mine[own]["images/s"] / theirs[best]["images/s"],
        "acc1, fp32": {"CLIP_benchmark": theirs[plain]["acc1"], "cliploom": mine["fp32"]["values"]["acc1"]},
        "start-up, s": {"CLIP_benchmark": theirs[best]["start-up"], "cliploom": mine[own]["start-up"]},
        "runs": {**{f"CLIP_benchmark, {how}": run for how, run in theirs.items()}, **mine},
    }
    return row, best, own


def suite(folder: Path, how: Peer, precision: Precision) -> Row:
    """Seconds of a whole suite."""
    plans = [("things", "zeroshot_classification", templates) for templates in ([], [TEMPLATES[0]], ["{c}"])]
    runs = [peer(folder, root, task, how, templates) for root, task, templates in plans]
    runs.append(peer(folder, "captions", "zeroshot_retrieval", how))
    runs.append(peer(folder, "things", "linear_probe", how, splits=("train", "test")))
    mine = ours(folder, "suite.yaml", precision)
    theirs = sum(run["seconds"] for run in runs)
    return {
        "CLIP_benchmark, s": theirs,
        "cliploom, s": mine["seconds"],
        "times as fast": theirs / mine["seconds"],
        "start-up, s": {"CLIP_benchmark": sum(run["start-up"] for run in runs), "cliploom": mine["start-up"]},
        "runs": {"CLIP_benchmark": runs, "cliploom": mine},
    }


def peer(
    folder: Path,
    root: str,
    task: str,
    how: Peer,
    templates: list[str] | None = None,
    splits: tuple[str, ...] = ("test",),
) -> Row:
    """CLIP_benchmark's answer, from a process of its own."""
    request = {
        "model": MODEL,
        "weights": str(folder / "weights"),
        "root": str(folder / root),
        "task": task,
        "splits": splits,
        "templates": templates,
        **how._asdict(),
        "batch": BATCH,
        "warm_up": WARM_UP,
        "threads": len(os.sched_getaffinity(0)),
    }
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    command = [str(PEER), str(HERE / "evaluation_peer.py"), json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"error: evaluation_peer.py {json.dumps(request)} failed:\n{done.stderr[-2000:]}")
    answer: Row = json.loads(done.stdout.splitlines()[-1])
    return answer


def ours(folder: Path, name: str, precision: Precision) -> Row:
    """cliploom's answer: a new cluster, and features that are not kept from before."""
    from cliploom import cluster
    from cliploom.evaluation import model, run
    from cliploom.evaluation import suite as suites
    from cliploom.settings.cluster import Ray
    from cliploom.settings.evaluation import Evaluate

    began = time.perf_counter()
    ticks: list[tuple[float, int]] = []
    cores = len(os.sched_getaffinity(0))
    with cluster.connect(Ray(cpus=cores)), tempfile.TemporaryDirectory() as kept:
        found = suites.load(str(folder / name))
        opened = run.open_suite(found, str(folder))
        tested = model.publish(folder / "weights", str(Path(kept, "model")), MODEL)
        settings = Evaluate(batch_size=BATCH, workers=cores, cpus_per_worker=0.7, precision=precision)
        outcome = run.evaluate(
            found, opened, tested, [], str(Path(kept, "features")), settings, 0,
            lambda done: ticks.append((time.perf_counter(), done.images)),
        )  # fmt: skip
        ended = time.perf_counter()
    images = [tick for tick in ticks if tick[1] > 0]
    (first, before), (last, after) = images[WARM_UP], images[-1]
    rate = (after - before) / (last - first)
    work = ended - last + outcome.computed.images / rate  # as if all images had come at the steady rate
    return {
        "images/s": rate,
        "seconds": work,
        "start-up": ended - began - work,
        "values": {row["metric"]: row["value"] for row in outcome.rows},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
