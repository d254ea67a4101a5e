"""Between a fit's driver and its workers: reports, requests to stop, and why attempts ended and how often they may."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, NamedTuple


class GaveUpError(RuntimeError):
    """Workers were started again as often as the settings allow; the message is one line."""


class Place(NamedTuple):
    """Where a worker runs."""

    node: str  # Ray's id of it
    host: str  # its address
    kills: int  # processes that its kernel has killed for want of memory, ever


class Word(NamedTuple):
    """What is known of a worker's end; the smaller the rank of the kind, the nearer to the cause."""

    kind: int
    line: str


HUNG, DIED, RAISED = range(3)  # what one worker raises is often but the echo of another one's death
SHORT_OF_MEMORY = "lower train.micro_batch_size, or raise train.memory_gb_per_worker"


class Board:
    """Lives in an actor. Rank 0 pins reports to it, the driver may ask for a stop, and each attempt signs in.

    A restart is charged to one of two budgets: to `max_preemptions` where a node was drained or lost, else to
    `max_failures`. That the number of workers was changed while all were well costs nothing.

    Args:
        max_failures: restarts after faults of workers.
        max_preemptions: restarts after nodes that went away.
    """

    def __init__(self, max_failures: int, max_preemptions: int) -> None:
        self._budgets = {"train.max_failures": max_failures, "train.max_preemptions": max_preemptions}
        self._used = dict.fromkeys(self._budgets, 0)
        self._rows: list[dict[str, Any]] = []
        self._places: list[Place] = []  # of the attempt's workers, by rank
        self._words: dict[int, Word] = {}  # of the attempt's workers, the first of each
        self._stop = False
        self._error: Exception | None = None

    def give_up(self, error: Exception) -> None:
        """Say that it makes no sense to try again, and what the driver is to raise; the first one counts."""
        self._error = self._error or error

    def error(self) -> Exception | None:
        """What a worker has given up for."""
        return self._error

    def ask_to_stop(self) -> None:
        """Have the workers stop after their step, with a checkpoint."""
        self._stop = True

    def is_stopping(self) -> bool:
        """Whether the driver has asked to stop."""
        return self._stop

    def is_over(self) -> bool:
        """Whether workers that are only now started have nothing to do."""
        return self._stop or self._error is not None

    def pin(self, row: dict[str, Any]) -> None:
        """Add a report."""
        self._rows.append(row)

    def take(self) -> list[dict[str, Any]]:
        """All reports since the last time."""
        rows, self._rows = self._rows, []
        return rows

    def tell(self, rank: int, kind: int, line: str) -> None:
        """Say how the worker `rank` of the present attempt came to its end: HUNG, DIED or RAISED."""
        self._words.setdefault(rank, Word(kind, " ".join(line.split())))

    def begin(self, places: Sequence[Place], alive: Set[str]) -> str:
        """Sign in an attempt; returns why the one before ended, nothing where there was none.

        Gives up where that was once too often.

        Args:
            places: of the new attempt's workers, by rank.
            alive: nodes that are there to stay.
        """
        before, words = self._places, self._words
        self._places, self._words = list(places), {}
        if not before:
            return ""
        if gone := _gone(before, words, places, alive):
            return self._charge("train.max_preemptions", f"{_list('node', gone)} drained or lost")
        if not words and len(before) != len(places):
            return f"there is room for {len(places)} workers in place of {len(before)}"
        return self._charge("train.max_failures", _cause(before, words, places))

    def _charge(self, budget: str, reason: str) -> str:
        self._used[budget] += 1
        if self._used[budget] > self._budgets[budget]:
            self.give_up(GaveUpError(f"{reason}; {budget}={self._budgets[budget]} allows no other restart"))
        return reason


def _gone(before: list[Place], words: dict[int, Word], now: Sequence[Place], alive: Set[str]) -> list[str]:
    """The hosts of the last attempt that are away: Ray says so, or is about to, since a worker there was never heard of
    again after another one's end, and no worker was put there any more."""
    used = {place.node for place in now}
    silent = [place.node for rank, place in enumerate(before) if words and rank not in words]
    gone = {place.node for place in before} - alive | (set(silent) - used)
    return sorted({place.host for place in before if place.node in gone})


def _cause(before: list[Place], words: dict[int, Word], now: Sequence[Place]) -> str:
    kills = {place.node: place.kills for place in now}
    short = {rank for rank, place in enumerate(before) if kills.get(place.node, 0) > place.kills}
    for rank, word in words.items():
        if word.kind == DIED and (rank in short or "OUT_OF_MEMORY" in word.line):
            return f"worker {rank} was killed for want of memory on its node: {SHORT_OF_MEMORY}"
    if not words:
        return "the workers could not be started"
    rank, word = min(words.items(), key=lambda item: item[1].kind)  # of one kind, the first that spoke
    if word.kind == HUNG and (silent := [str(r) for r in range(len(before)) if r not in words]):
        return f"worker {rank}: {word.line}; nothing was heard of {_list('worker', silent)}"
    return f"worker {rank}: {word.line}"


def _list(what: str, names: list[str]) -> str:
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(names)}"
