"""Make shards, or an evaluation set, of raw data."""

from __future__ import annotations

import sys

from cliploom import job
from cliploom.config import Config


def main(config: Config, _: list[str]) -> None:
    """Make shards with a manifest of image-text pairs, or an evaluation set (see the keys prepare.*).

    Run again after it was killed, it goes on where it was. What can't be used is counted, and named in
    quarantine.jsonl.
    """
    from cliploom.cluster import connect
    from cliploom.data.prepare import prepare
    from cliploom.data.runner import Tasks

    tasks = Tasks(config.data.pool)
    with connect(config.ray):
        result = prepare(config, tasks)
    print(f"{result.samples} samples in {result.shards} shards: {result.uri}")
    print(f"left out: {result.left_out()}")
    print(tasks.summary())


if __name__ == "__main__":
    sys.exit(job.run(main))
