"""`make search-demo` and `make search-full`: searches on the demonstration's corpus, by the jobs themselves."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cliploom.demo.__main__ import FOLDER, run_stage
from cliploom.progress import duration

CONFIGS = "jobs/configs/search"
SEARCHES = {"demo": ("demo-settings", "demo-scale"), "full": ("full-scale", "full-methods")}
_VOCABULARY = FOLDER / "vocabulary.bpe"  # small, so that models are not mostly token embeddings
_VOCABULARY_SIZE = 2048


def main(argv: Sequence[str]) -> int:
    """Run the stages of the search that the command line names; the exit code is that of the first that fails."""
    if len(argv) != 1 or argv[0] not in SEARCHES:
        print(f"usage: python -m cliploom.demo.search {'|'.join(SEARCHES)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    for title, command in _stages(argv[0]):
        print(f"\n== {title}\n$ {' '.join(['python', *command])}", flush=True)
        started = time.monotonic()
        if code := run_stage(command):
            return code
        print(f"({duration(time.monotonic() - started)})", flush=True)
    print(f"\n== done in {duration(time.monotonic() - began)}")
    for name in SEARCHES[argv[0]]:
        print(f"{Path('demo/storage', name).absolute()}: results.json and plots")
    return 0


def _stages(which: str) -> list[tuple[str, list[str]]]:
    stages = [("corpus: fetch, draw and pack real pictures", ["-m", "cliploom.demo.corpus", str(FOLDER)])]
    if not _VOCABULARY.exists():
        output = [f"vocabulary.size={_VOCABULARY_SIZE}", f"vocabulary.output={_VOCABULARY}"]
        stages.append(
            ("vocabulary", ["jobs/vocabulary.py", f"data.manifest={FOLDER / 'shards'}", *output]),
        )
    for name in SEARCHES[which]:
        command = ["jobs/tune.py", "--config", f"{CONFIGS}/{name}.yaml"]
        stages += [(f"{name}: what it will cost", [*command, "--dry-run"]), (name, command)]
    return stages


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
