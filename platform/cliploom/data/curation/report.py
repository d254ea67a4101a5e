"""What curation did, in numbers: as JSON, as a table of all queries, and for the terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cliploom import storage
from cliploom.data.curation.facts import KEPT, RULES
from cliploom.data.manifest import Manifest
from cliploom.settings.curation import Curate

REPORT, DRY, QUERIES = "report.json", "dry_run.json", "queries.parquet"
VERSION = 1
_AT_ONCE = 1 << 24


def describe(
    settings: Curate,
    manifest: Manifest,
    verdicts: NDArray[np.uint8],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
) -> dict[str, Any]:
    """The report as it is written to report.json.

    Args:
        verdicts: of all pairs, number in RULES.
        before: pairs that contained each query when the balancing began, int64 [queries].
        after: those of them that are kept, int64 [queries].
    """
    counts = np.zeros(len(RULES), dtype=np.int64)
    for start in range(0, len(verdicts), _AT_ONCE):
        counts += np.bincount(verdicts[start : start + _AT_ONCE], minlength=len(RULES))
    return {
        "version": VERSION,
        "manifest": manifest.uri,
        "fingerprint": manifest.fingerprint,
        "settings": settings.model_dump(mode="json"),
        "pairs": manifest.samples,
        "kept": int(counts[KEPT]),
        "dropped": {rule: int(counts[n]) for n, rule in enumerate(RULES) if n != KEPT and counts[n]},
        "queries": {
            "number": len(before),
            "found": int(np.count_nonzero(before)),
            "above_limit": int(np.count_nonzero(before > settings.per_query)),
            "pairs_of_queries": {"before": _histogram(before), "after": _histogram(after)},
        },
    }


def write(folder: str, report: dict[str, Any], texts: list[str], before: NDArray, after: NDArray, dry: bool) -> None:
    """Write report.json, and queries.parquet with a row a query; of a dry run only dry_run.json."""
    content = json.dumps(report, indent=2, ensure_ascii=False).encode()
    if dry:
        storage.write(storage.join(folder, DRY), content)
        return
    table = pa.table({"query": pa.array(texts, pa.string()), "before": before, "after": after})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.write(storage.join(folder, QUERIES), buffer.getvalue())
    storage.write(storage.join(folder, REPORT), content)


def show(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    from rich.console import Console
    from rich.table import Table

    pairs = Table("", "pairs", "share", title="pairs", title_justify="left")
    rows = [("read", report["pairs"]), *report["dropped"].items(), ("kept", report["kept"])]
    for what, count in rows:
        pairs.add_row(what, f"{count:,}", f"{count / report['pairs']:.2%}")
    console = Console()
    console.print(pairs)
    queries = report["queries"]
    if queries["number"]:
        title = f"{queries['number']:,} queries by number of pairs; {queries['above_limit']:,} above the limit"
        table = Table("pairs", "queries before", "after", title=title, title_justify="left")
        before, after = queries["pairs_of_queries"]["before"], queries["pairs_of_queries"]["after"]
        for span in dict.fromkeys([*before, *after]):
            table.add_row(span, f"{before.get(span, 0):,}", f"{after.get(span, 0):,}")
        console.print(table)


def _histogram(counts: NDArray[np.int64]) -> dict[str, int]:
    """Queries by the power of ten of their number of pairs: {"0": ..., "1-9": ..., "10-99": ...}."""
    digits = np.searchsorted(10 ** np.arange(19), counts, side="right")
    found: NDArray[np.int64] = np.bincount(digits)
    spans = ["0"] + [f"{10 ** (d - 1):,}-{10**d - 1:,}" for d in range(1, len(found))]
    return dict(zip(spans, found.tolist(), strict=False))
