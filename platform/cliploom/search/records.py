"""What is known of a search's trials, on storage: the truth by which a search that was killed goes on.

records/007/trial.json   its settings, written before it starts and never again
records/007/points.json  what it has been measured at so far
records/007/branch.json  of population-based training: what it has gone on with since it was copied from another
records/007/end.json     how it ended; a trial that has this is not run again
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cliploom import storage
from cliploom.search.space import Settings

LOSS = "held_out_loss"
Measured = dict[str, Any]  # of a point: step, samples, LOSS, and acc1 where it is asked for
Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One trial as its records tell."""

    number: int
    settings: Settings
    points: list[Measured]
    status: Status | None  # None where it has not ended
    reason: str

    @property
    def loss(self) -> float | None:
        """Where it was last measured."""
        return self.points[-1][LOSS] if self.points else None


@dataclass(frozen=True)
class Branch:
    """A trial's present life; population-based training ends one and begins the next from another trial's state.

    Attributes:
        generation: how often it has been copied from another.
        settings: that it goes on with.
        source: number, generation and step of what it was copied from.
    """

    generation: int
    settings: Settings
    source: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Records:
    """The records of the search in `folder` (a URI)."""

    folder: str

    def propose(self, number: int, settings: Callable[[], Settings]) -> Settings:
        """The settings of a trial: those that it was given before, or else new ones."""
        found = self._read(number, "trial.json")
        if found is None:
            self._create(number, "trial.json", {"number": number, "settings": settings()})
            found = self._read(number, "trial.json")
        wanted: Settings = found["settings"]
        return wanted

    def points(self, number: int) -> list[Measured]:
        """What a trial has been measured at."""
        found: list[Measured] | None = self._read(number, "points.json")
        return found or []

    def add(self, number: int, points: list[Measured]) -> None:
        """Keep all points of a trial, over those before."""
        storage.write(self._place(number, "points.json"), json.dumps(points).encode())

    def branch(self, number: int) -> Branch | None:
        """The life that a trial was copied into last; None where it is in its first."""
        found = self._read(number, "branch.json")
        if found is None:
            return None
        return Branch(found["generation"], found["settings"], tuple(found["source"]))

    def begin_branch(self, number: int, branch: Branch) -> None:
        """Have a trial go on from another's state, with that one's points up to there."""
        assert branch.source is not None
        source, _, step = branch.source
        self.add(number, [point for point in self.points(source) if point["step"] <= step])
        storage.write(self._place(number, "branch.json"), json.dumps(asdict(branch)).encode())

    def end(self, number: int, status: Status, reason: str = "") -> None:
        """Say how a trial ended; the first word stands."""
        self._create(number, "end.json", {"status": status, "reason": reason})

    def read(self, number: int) -> Trial | None:
        """All that is known of a trial; None where it has not begun."""
        found = self._read(number, "trial.json")
        if found is None:
            return None
        end = self._read(number, "end.json") or {"status": None, "reason": ""}
        branch = self.branch(number)
        settings = branch.settings if branch else found["settings"]
        return Trial(number, settings, self.points(number), end["status"], end["reason"])

    def all(self) -> list[Trial]:
        """Every trial that has begun, by number."""
        found: list[Trial] = []
        while (trial := self.read(len(found))) is not None:
            found.append(trial)
        return found

    def _read(self, number: int, name: str) -> Any:
        try:
            return json.loads(storage.read(self._place(number, name)))
        except FileNotFoundError:
            return None

    def _create(self, number: int, name: str, content: object) -> None:
        storage.create(self._place(number, name), json.dumps(content).encode())

    def _place(self, number: int, name: str) -> str:
        return storage.join(self.folder, "records", f"{number:03d}", name)
