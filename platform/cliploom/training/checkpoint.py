"""Checkpoints that are whole or not there, and the attempts that write them.

A run's folder holds

    attempts/0003.json                      which attempt began, and from which checkpoint
    checkpoints/00001200-0003/state-0.safetensors, state-1.safetensors, ...
    checkpoints/00001200-0003/COMMIT.json   written last; the checkpoint is there when this is
    kept.json                               which checkpoints stay though they are old

COMMIT.json alone is the truth: it holds the digests of all files and of itself, and a checkpoint that differs from them
is passed over for the one before. Each worker writes the slices of tensors that it holds, by name, so that a checkpoint
can be read at any number of workers and any ZeRO stage.

An attempt that was given up may still be uploading. What it commits after the next attempt has begun from an earlier
step would fork the run, so a checkpoint counts only if no later attempt began below its step. Where the record of an
attempt is damaged, its checkpoints say where it began; where it has none, nothing of it is left that could be forked.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cliploom import storage
from cliploom.errors import InputError
from cliploom.training import parts

FORMAT_VERSION = 2
MARKER = "COMMIT.json"
_KEPT = "kept.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run is: what a checkpoint says beside the tensors."""

    step: int  # steps done; the next global batch has this number
    samples: int
    optimizer_steps: int  # fewer than steps where steps were skipped
    data_fingerprint: str
    settings: Mapping[str, Any]  # those that a resumed run must share
    skipped: list[dict[str, Any]] = field(default_factory=list)  # {step, cause, positions} without effect
    bad_visits: int = 0  # visits at which another sample stood in for an unreadable one
    faults: list[dict[str, str]] = field(default_factory=list)  # those samples, each once
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics, reported since the checkpoint before


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole."""

    uri: str
    attempt: int
    begun: int | None  # the step at which that attempt began; not known of the oldest
    progress: Progress
    files: Mapping[str, Mapping[str, Any]]  # name -> {bytes, sha256}

    def load(self) -> dict[str, Tensor]:
        """All tensors, flat, by KIND/NAME."""
        return merge(safetensors.torch.load(storage.read(storage.join(self.uri, name))) for name in sorted(self.files))


@dataclass(frozen=True)
class Attempt:
    """One start of a run's workers. All that is resumed is read from it, so that weights and data agree."""

    number: int
    step: int  # the first step it takes
    checkpoint: str | None  # name of the one it goes on from
    workers: int = 0  # 0 in those of older versions
    reason: str = ""  # why the one before ended, where the same job started both


@dataclass(frozen=True)
class Best:
    """The checkpoint with the highest value of a metric so far."""

    name: str
    step: int
    metric: str
    value: float


def begin(run: str, workers: int = 0, reason: str = "") -> tuple[Attempt, Checkpoint | None]:
    """Begin the next attempt of the run in the folder `run`, from its newest whole checkpoint.

    Args:
        run: URI.
        workers: how many, for the record.
        reason: why the attempt before ended, for the record.
    """
    while True:
        found = newest(run)
        attempt = Attempt(
            number=_last_number(run) + 1,
            step=found.progress.step if found else 0,
            checkpoint=storage.name(found.uri) if found else None,
            workers=workers,
            reason=reason,
        )
        place = storage.join(run, "attempts", f"{attempt.number:04d}.json")
        record = asdict(attempt)
        if storage.create(place, json.dumps({**record, "sha256": _digest(record)}).encode()):
            return attempt, found


def read_attempts(run: str) -> list[Attempt]:
    """All attempts of a run, in order; those whose record is damaged are passed over."""
    found = (_read_attempt(file.uri) for file in storage.files(storage.join(run, "attempts")))
    return [attempt for attempt in found if attempt]


def write_part(run: str, attempt: Attempt, step: int, rank: int, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write one worker's tensors; returns what the marker must say of the file."""
    name = f"state-{rank}.safetensors"
    data = parts.buffers(state)
    storage.write(storage.join(_folder(run, attempt, step), name), data)
    digest = hashlib.sha256()
    for piece in data:
        digest.update(piece)
    return {"name": name, "bytes": sum(piece.nbytes for piece in data), "sha256": digest.hexdigest()}


def commit(run: str, attempt: Attempt, progress: Progress, parts: list[dict[str, Any]]) -> str:
    """Commit a checkpoint all of whose parts are written; returns its URI.

    Raises:
        RuntimeError: another attempt has begun, which is the run now.
    """
    last = _last_number(run)
    if last > attempt.number:
        raise RuntimeError(f"attempt {attempt.number} may not commit: attempt {last} has begun")
    folder = _folder(run, attempt, progress.step)
    marker = {
        "format_version": FORMAT_VERSION,
        "attempt": attempt.number,
        "begun": attempt.step,
        "progress": asdict(progress),
        "files": {part["name"]: {"bytes": part["bytes"], "sha256": part["sha256"]} for part in parts},
    }
    storage.write(storage.join(folder, MARKER), json.dumps({"sha256": _digest(marker), "commit": marker}).encode())
    return folder


def newest(run: str) -> Checkpoint | None:
    """The newest whole checkpoint of a run; damaged ones are passed over with a warning.

    Raises:
        InputError: a checkpoint has a format that is not known here.
    """
    for checkpoint in committed(run):
        fault = _fault(checkpoint)
        if fault is None:
            return checkpoint
        log.warning("checkpoint %s is damaged (%s): going back to the one before", checkpoint.uri, fault)
    return None


def committed(run: str) -> list[Checkpoint]:
    """All checkpoints with a marker that count, newest first; their files are not looked at."""
    markers = [file.uri for file in storage.files(storage.join(run, "checkpoints")) if storage.name(file.uri) == MARKER]
    whole = [checkpoint for checkpoint in map(_read_marker, markers) if checkpoint]
    began = {checkpoint.attempt: checkpoint.begun for checkpoint in whole}
    began |= {attempt.number: attempt.step for attempt in read_attempts(run)}
    found = [
        checkpoint
        for checkpoint in whole
        if all(
            step is None or step >= checkpoint.progress.step
            for number, step in began.items()
            if number > checkpoint.attempt
        )
    ]
    return sorted(found, key=lambda c: (c.progress.step, c.attempt), reverse=True)


def rows(run: str, step: int) -> list[dict[str, Any]]:
    """The rows of metrics up to `step` that the checkpoints of a run still have, in order."""
    found = (row for checkpoint in reversed(committed(run)) for row in checkpoint.progress.rows)
    return [row for row in found if row["step"] <= step]


def remove_old(run: str, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints, those that `keep_also` names, and what dead attempts left.

    Call it after a commit.
    """
    found = committed(run)
    kept = {checkpoint.uri for checkpoint in found[:keep]}
    kept |= {storage.join(run, "checkpoints", name) for name in _kept(run)["names"]}
    oldest = min((checkpoint.progress.step for checkpoint in found[:keep]), default=0)
    folders = {storage.parent(file.uri) for file in storage.files(storage.join(run, "checkpoints"))}
    for folder in sorted(folders - kept):
        if int(storage.name(folder).split("-")[0]) <= oldest:
            # The marker goes first, so that a removal that is cut short leaves no checkpoint that looks whole.
            storage.delete(storage.join(folder, MARKER))
            storage.delete(folder)


def keep_also(run: str, best: Best | None, others: Iterable[str]) -> None:
    """Have the best checkpoint stay, and others by their names, in place of what was to stay before."""
    names = sorted({*others, *([best.name] if best else [])})
    record = {"format_version": 1, "best": asdict(best) if best else None, "names": names}
    storage.write(storage.join(run, _KEPT), json.dumps(record, indent=1).encode())


def best(run: str) -> Best | None:
    """The best checkpoint, where one was named that is still there."""
    found = _kept(run)["best"]
    there = found and storage.exists(storage.join(run, "checkpoints", found["name"], MARKER))
    return Best(**found) if there else None


def _kept(run: str) -> dict[str, Any]:
    place = storage.join(run, _KEPT)
    try:
        found: dict[str, Any] = json.loads(storage.read(place))
        return {"best": found["best"], "names": found["names"]}
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s): which checkpoint is best is not known any more", place, error)
    return {"best": None, "names": []}


def merge(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The whole flat tensors, by KIND/NAME, of all workers' slices, by KIND/NAME@START.

    Raises:
        ValueError: slices overlap, or some are missing.
    """
    slices: dict[str, dict[int, Tensor]] = {}
    for part in parts:
        for key, values in part.items():
            name, _, start = key.rpartition("@")
            slices.setdefault(name, {})[int(start)] = values
    whole = {}
    for name, found in slices.items():
        starts = sorted(found)
        ends = [start + len(found[start]) for start in starts]
        if starts != [0, *ends[:-1]]:
            raise ValueError(f"the slices of {name} do not meet")
        whole[name] = torch.cat([found[start] for start in starts])
    return whole


def _folder(run: str, attempt: Attempt, step: int) -> str:
    return storage.join(run, "checkpoints", f"{step:08d}-{attempt.number:04d}")


def _last_number(run: str) -> int:
    """The number of the attempt that began last; 0 where there was none."""
    records = [storage.name(file.uri).removesuffix(".json") for file in storage.files(storage.join(run, "attempts"))]
    folders = [storage.parent(file.uri) for file in storage.files(storage.join(run, "checkpoints"))]
    return max((int(number) for number in (*records, *(name.split("-")[-1] for name in folders))), default=0)


def _read_attempt(uri: str) -> Attempt | None:
    try:
        record = json.loads(storage.read(uri))
        digest = record.pop("sha256", None)  # the oldest have none
        if digest not in (None, _digest(record)):
            raise ValueError("another digest")
        return Attempt(**record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("the record of an attempt %s is damaged (%s): passed over", uri, error)
        return None


def _read_marker(uri: str) -> Checkpoint | None:
    try:
        found = json.loads(storage.read(uri))
        marker = found["commit"]
        if _digest(marker) != found["sha256"]:
            raise ValueError("another digest")
        version = marker["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(f"{uri} has checkpoint format {version}, but this cliploom reads {FORMAT_VERSION}")
        progress = Progress(**marker["progress"])
        return Checkpoint(storage.parent(uri), marker["attempt"], marker.get("begun"), progress, marker["files"])
    except FileNotFoundError:  # removed since it was listed
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the checkpoint marker %s is damaged (%s): passed over", uri, error)
        return None


def _digest(marker: Any) -> str:
    return hashlib.sha256(json.dumps(marker, sort_keys=True).encode()).hexdigest()


def _fault(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint's files, if anything."""
    for name, expected in checkpoint.files.items():
        try:
            data = storage.read(storage.join(checkpoint.uri, name))
        except FileNotFoundError:
            return f"{name} is missing"
        if len(data) != expected["bytes"]:
            return f"{name} has {len(data)} bytes, not {expected['bytes']}"
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            return f"{name} has another digest"
    return None
