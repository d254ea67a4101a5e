"""`make demo`: corpus, training, evaluation and review of a small CLIP on this machine, by the jobs themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cliploom import config as configs
from cliploom.progress import duration

CONFIG = "jobs/configs/demo.yaml"
FOLDER = Path("demo")
SHOWN = ("twemoji-seen", "twemoji-unseen", "emojione-seen", "emojione-unseen")


def main() -> int:
    """Run the stages one after another; the exit code is that of the first that fails."""
    began = time.monotonic()
    try:
        for title, command in _stages():
            print(f"\n== {title}\n$ {' '.join(['python', *command])}", flush=True)
            started = time.monotonic()
            code = run_stage(command)
            if code:
                return code
            print(f"({duration(time.monotonic() - started)})", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted; `make demo` goes on from here", file=sys.stderr)
        return 130
    _show(time.monotonic() - began)
    return 0


def _stages() -> list[tuple[str, list[str]]]:
    from cliploom.training.peak import cpus_have_bf16

    review = ["jobs/review.py", "--config", CONFIG]
    precision = [] if cpus_have_bf16() else ["train.precision=fp32"]
    return [
        ("corpus: fetch, draw and pack real pictures", ["-m", "cliploom.demo.corpus", str(FOLDER)]),
        ("train", ["jobs/train.py", "--config", CONFIG, *precision]),
        ("evaluate", ["jobs/evaluate.py", "--config", CONFIG]),
        ("review: what the reviewer sees", [*review, "list"]),
        ("review: approve", [*review, "approve", "candidate", "the", "demonstration"]),
    ]


def run_stage(command: Sequence[str]) -> int:
    """Run a stage to its end; on Ctrl-C, which the stage gets as well, wait until it has cleaned up."""
    stage = subprocess.Popen([sys.executable, *command])  # noqa: S603  # our own stages
    try:
        return stage.wait()
    except KeyboardInterrupt:
        stage.wait()
        raise


def _show(seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    config = configs.load(CONFIG)
    folder = Path(config.run.storage, str(config.run.name), "evaluation").absolute()
    rows = json.loads((folder / "results.json").read_text())
    table = Table(title="The champion on art styles that it never saw, over all names", title_justify="left")
    for column in ("data set", "metric", "value", "95 % interval", "chance"):
        table.add_column(column, justify="left" if column in ("data set", "metric") else "right")
    for row in rows:
        if row["dataset"] in SHOWN and row["metric"] in ("acc1", "acc5"):
            interval = f"{row['low']:.1%} - {row['high']:.1%}"
            table.add_row(row["dataset"], row["metric"], f"{row['value']:.1%}", interval, f"{row['chance']:.2%}")
    console = Console()
    print(f"\n== done in {duration(seconds)}")
    console.print(table)
    store = f"sqlite:///{Path(config.run.storage).absolute()}/mlflow.db"
    print(f"predictions, with pictures   {folder / 'report.html'}")
    print(f"shards and manifest          {FOLDER.absolute() / 'shards'}")
    print(f"MLflow                       .venv/bin/mlflow ui --backend-store-uri {store}")
    model = f"models:/{config.registry.model_name}@champion"
    print(f'in Python                    cliploom.load("{model}", registry_uri="{store}")')


if __name__ == "__main__":
    sys.exit(main())
