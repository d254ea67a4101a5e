"""Make a manifest of shards that exist."""

from __future__ import annotations

import sys

from cliploom import job
from cliploom.config import Config


def main(config: Config, _: list[str]) -> None:
    """Make manifest.parquet for WebDataset shards that exist (see the keys index.*).

    Tar headers are read, not the images. What is no image with a caption is counted, and named in quarantine.jsonl.
    """
    from cliploom.cluster import connect
    from cliploom.data.indexing import make_index
    from cliploom.data.runner import Tasks

    tasks = Tasks(config.data.pool)
    with connect(config.ray):
        result = make_index(config, tasks)
    print(f"{result.samples} samples in {result.shards} shards: {result.uri}")
    print(f"left out: {result.left_out()}")
    print(tasks.summary())


if __name__ == "__main__":
    sys.exit(job.run(main))
