"""Choose the pairs worth training on."""

from __future__ import annotations

import sys

from cliploom import job
from cliploom.config import Config


def main(config: Config, _: list[str]) -> None:
    """Make shards with a manifest of the pairs of another manifest that are worth training on (see the keys curate.*).

    What filters and duplicates leave is balanced: a pair stays if one of its queries keeps it, and a query keeps at
    most curate.per_query pairs. Without queries nothing is balanced. report.json beside the shards tells what each rule
    dropped, queries.parquet how many pairs contain each query, before and after. Run again after it was killed, it goes
    on where it was.
    """
    from cliploom.cluster import connect
    from cliploom.data.curation.curate import curate
    from cliploom.data.curation.report import show
    from cliploom.data.runner import Tasks

    tasks = Tasks(config.data.pool)
    with connect(config.ray):
        result = curate(config, tasks)
    show(result.report)
    made = result.uri or "a dry run, which writes no shards"
    print(f"{result.report['kept']} of {result.report['pairs']} pairs: {made}")
    print(tasks.summary())


if __name__ == "__main__":
    sys.exit(job.run(main))
