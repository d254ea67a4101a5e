"""Remove what runs have left behind."""

from __future__ import annotations

import sys

from cliploom import job
from cliploom.config import Config

OPTIONS = {"--delete": "clean.delete"}


def main(config: Config, _: list[str]) -> None:
    """List what nothing refers to any more, and delete it with --delete.

    That is, of registry.experiment and run.storage: runs that failed or were killed clean.days ago and that no model
    version comes from, with their folders; and the checkpoints of runs that finished and have their weights exported.
    A deleted run can be restored in MLflow until `mlflow gc`; files are gone.
    """
    from rich.console import Console
    from rich.table import Table

    from cliploom import registry, storage
    from cliploom.registry import cleaning

    uri, folder = registry.store_uri(config), storage.absolute(config.run.storage)
    registry.check(uri)
    found = cleaning.find(uri, config.registry.experiment, folder, config.clean.days)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("run", "what", "MiB", "why"):
        table.add_column(column, overflow="fold", justify="right" if column == "MiB" else "left")
    for one in found:
        table.add_row(one.run, "run" if one.whole else "checkpoints", f"{one.bytes / 2**20:,.1f}", one.why)
    if found:
        Console().print(table)
    if config.clean.delete:
        for one in found:
            cleaning.remove(uri, one)
    total = sum(one.bytes for one in found) / 2**20
    print(f"{'deleted' if config.clean.delete else 'would delete'}: {len(found)} of them, {total:,.1f} MiB")


if __name__ == "__main__":
    sys.exit(job.run(main, options=OPTIONS))
