"""Matching and balancing of synthetic captions against half a million queries: seconds and memory.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/curate.py OUTPUT.json

It covers what curation does with captions: finding their queries (Aho-Corasick), facts on disk, and the balance, with
the functions of the job in worker processes on this machine, in blocks of 10,000 captions. It has no shards and no
images, whose reading and decoding takes longer than all of this, and no Ray. Words are drawn by a power law; queries
are the thousand most frequent of them and pairs of any. The start of the workers, in which each builds its automaton,
counts as matching. Memory is the peak of the proportional set size of the process tree, sampled, and the most that each
worker has held.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from cliploom.data.curation.balance import Tables, balance
from cliploom.data.curation.facts import KEPT, Facts, Pass, Slice
from cliploom.data.curation.matching import Queries, matcher

WORDS, QUERIES, FREQUENT, WORKERS = 150_000, 500_000, 1_000, 2
PER_QUERY = 1_000  # of a million captions, as 20,000 of twenty million
EXPONENT = 1.5  # of the words' frequencies; so steep that not every caption has a rare word that keeps it
SYLLABLES = ["ka", "ro", "mi", "ten", "sa", "lu", "vor", "el", "in", "ta", "sho", "bre", "du", "gan", "pi", "st", "ler"]


class Block(NamedTuple):
    """Captions to match."""

    captions: str  # file with one a line
    facts: str  # file to write
    queries: str
    first: int  # number of the first caption


def main(argv: list[str]) -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--captions", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        queries = Queries.of(phrases())
        queries.save(str(folder / "queries.txt"))
        rows = [measure(folder, count, 10_000) for count in options.captions]
        other = measure(folder, options.captions[0], 3_333)
    assert other["kept_digest"] == rows[0]["kept_digest"], "the choice depends on the blocks"
    known = {"machine": machine(), "command": " ".join(["tests/benchmarks/curate.py", *argv]), "queries": len(queries)}
    report = {**known, "per_query": PER_QUERY, "workers": WORKERS, "rows": rows, "other_blocks": other}
    options.output.write_text(json.dumps(report, indent=2) + "\n")


def measure(folder: Path, count: int, block_size: int) -> dict[str, Any]:
    """Match and balance so many captions in blocks."""
    random = np.random.default_rng(1)
    lines = itertools.chain.from_iterable(captions(random, 10_000) for _ in itertools.count())
    blocks = []
    for number, first in enumerate(range(0, count, block_size)):
        path = folder / f"{count}-{block_size}-{number}"
        path.write_text("\n".join(itertools.islice(lines, min(block_size, count - first))))
        blocks.append(Block(str(path), f"{path}.npz", str(folder / "queries.txt"), first))
    verdicts = np.zeros(count, dtype=np.uint8)
    with Workers() as workers, Memory() as memory:
        began = time.perf_counter()
        for _ in workers.run(match, blocks):
            pass
        matched = time.perf_counter()
        tables = Tables(blocks[0].queries, str(folder / f"attempt-{count}-{block_size}"), 0)
        before = balance(passes(blocks, verdicts, workers), tables, PER_QUERY, verdicts)
        ended = time.perf_counter()
        worker_peaks = workers.peaks()
    row = {
        "captions": count,
        "block": block_size,
        "match_seconds": round(matched - began, 2),
        "balance_seconds": round(ended - matched, 2),
        "captions_a_second": round(count / (ended - began)),
        "matches": int(before.sum()),
        "queries_above_limit": int(np.count_nonzero(before > PER_QUERY)),
        "kept": int(np.count_nonzero(verdicts == KEPT)),
        "kept_digest": hashlib.sha256((verdicts == KEPT).tobytes()).hexdigest(),
        "peak_tree_pss_mib": round(memory.peak / 2**20),
        "peak_worker_rss_mib": worker_peaks,
    }
    print(json.dumps(row), flush=True)
    return row


def match(block: Block) -> None:
    """The facts of a block; as in the job, but for the images."""
    lines = Path(block.captions).read_text().split("\n")
    found = [matcher(block.queries).find([line]) for line in lines]
    digests = b"".join(
        hashlib.blake2b(f"{line}{block.first + n}".encode(), digest_size=16).digest() for n, line in enumerate(lines)
    )
    words = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
    starts = np.cumsum([0, *map(len, found)])
    numbers = np.fromiter((number for some in found for number in some), np.int32, int(starts[-1]))
    rule, phash = np.zeros(len(lines), dtype=np.uint8), np.zeros(len(lines), dtype=np.uint64)
    Facts(rule, words, words, phash, starts, numbers).save(block.facts)


def passes(blocks: list[Block], verdicts: np.ndarray, workers: Workers) -> Pass:
    """Passes over the blocks, as the job makes them over shards."""
    ends = [block.first for block in blocks[1:]] + [len(verdicts)]

    def over(name: str, function: Callable[[Slice], Any]) -> Iterator[tuple[Slice, Any]]:
        items = (
            Slice(block.facts, block.first, verdicts[block.first : end].copy())
            for block, end in zip(blocks, ends, strict=True)
        )
        return workers.run(function, items)

    return over


class Workers:
    """Processes that run functions over items, in order; a context manager."""

    def __enter__(self) -> Workers:
        self._pool = ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"))
        return self

    def run(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        pending: list[tuple[Any, Future[Any]]] = []
        for item in items:
            pending.append((item, self._pool.submit(function, item)))
            if len(pending) == 4 * WORKERS:
                first, result = pending.pop(0)
                yield first, result.result()
        yield from ((item, result.result()) for item, result in pending)

    def peaks(self) -> list[int]:
        """The most MiB that each worker has held."""
        return [high_water(child.pid) // 1024 for child in multiprocessing.active_children() if child.pid]

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


class Memory:
    """The peak of the proportional set size of this process and its children inside the block, in bytes."""

    peak = 0

    def __enter__(self) -> Memory:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.peak = max(self.peak, sum(map(proportional, tree())))

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def tree() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def proportional(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0


def high_water(pid: int) -> int:
    """The most memory that a process has held, in KiB (Linux alone)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def vocabulary() -> list[str]:
    """Made-up words."""
    random = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < WORDS:
        found["".join(random.choice(SYLLABLES, random.integers(1, 6)))] = None
    return list(found)


def drawn(random: np.random.Generator, count: int) -> np.ndarray:
    """Numbers of words by a power law, int64 [count]."""
    weight = np.cumsum((np.arange(WORDS) + 2.7) ** -EXPONENT)
    return np.searchsorted(weight, random.random(count) * weight[-1])


def captions(random: np.random.Generator, count: int) -> list[str]:
    """Captions of 5 to 19 words."""
    lengths = random.integers(5, 20, count)
    words = np.split(drawn(random, int(lengths.sum())), np.cumsum(lengths)[:-1])
    return [" ".join([NAMES[word] for word in some]) for some in words]


def phrases() -> list[str]:
    """The queries: the most frequent words, and pairs of any words."""
    random = np.random.default_rng(2)
    found = dict.fromkeys(NAMES[:FREQUENT])
    while len(found) < QUERIES:
        found[" ".join(NAMES[word] for word in random.integers(0, WORDS, 2))] = None
    return list(found)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    return {"commit": commit, "python": platform.python_version(), "cpu": model.partition(": ")[2]}


if __name__ == "__main__":
    NAMES = vocabulary()
    main(sys.argv[1:])
