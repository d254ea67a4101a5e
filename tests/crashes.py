"""A save whose process is killed at a chosen operation, what is damaged afterwards, and what must be loaded then.

Two workers save by `Saver`, as in training. Python tells of each file that is opened, renamed or removed, and of each
piece of a request that is sent (`sys.addaudithook`); before the n-th of these the worker kills itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
import torch.distributed as dist

from cliploom import storage
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Attempt, Progress
from cliploom.training.saver import Saver

WORLD = 2
KEEP = 2
DAMAGES: tuple[Damage, ...] = ("none", "flipped", "truncated", "missing")
Damage = Literal["none", "flipped", "truncated", "missing"]
_FILE_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.link", "os.mkdir", "os.chmod"}
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__, "cliploom.storage", "boto3", "torch.distributed"])


@dataclass(frozen=True)
class Case:
    """Which worker is killed before its n-th operation, and what is done to a file after that."""

    rank: int
    operation: int | None  # None: the save is not disturbed
    damage: Damage


def progress(step: int) -> Progress:
    """Of a run with 8 samples a step."""
    return Progress(step, 8 * step, step, "print", {"train.seed": 1})


def tensors(step: int, rank: int) -> dict[str, torch.Tensor]:
    """A worker's slices at a step."""
    return {f"weight/a@{40 * rank}": torch.full((40,), float(step)), f"exp_avg/{rank}@0": torch.arange(3.0)}


def save(run: str, attempt: Attempt, step: int, **others: Any) -> str:
    """A checkpoint of both workers, by this process."""
    parts = [checkpoint.write_part(run, attempt, step, rank, tensors(step, rank)) for rank in range(WORLD)]
    return checkpoint.commit(run, attempt, replace(progress(step), **others), parts)


def history(run: str) -> Attempt:
    """Checkpoints of a first attempt at 10 and 20, and the second attempt, which goes on from 20."""
    attempt, _ = checkpoint.begin(run)
    for step in (10, 20):
        save(run, attempt, step)
    return checkpoint.begin(run)[0]


def disturbed_save(run: str, attempt: Attempt, case: Case) -> list[int]:
    """Both workers save step 30; returns how many operations each began (0: it was killed)."""
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            _processes.Process(target=_work, args=(run, attempt, case, rank, folder, dict(os.environ)), daemon=True)
            for rank in range(WORLD)
        ]
        for worker in workers:
            worker.start()
        if case.operation is None:
            for worker in workers:
                worker.join()
                assert worker.exitcode == 0
        else:
            _await_end(workers, case, Path(folder))
        return [_operations(Path(folder), rank) for rank in range(WORLD)]


def _operations(folder: Path, rank: int) -> int:
    """How many operations a worker began; 0: it was killed."""
    path = folder / str(rank)
    return int(path.read_text()) if path.exists() else 0


def _await_end(workers: Sequence[BaseProcess], case: Case, folder: Path) -> None:
    """Until the one is killed, and then the others, as Ray Train would end them.

    It comes through where its save has fewer operations than the one that they were counted in: a worker looks at each
    file that the other has begun to write by then.
    """
    assert case.operation is not None
    one = workers[case.rank]
    one.join()
    assert one.exitcode == -signal.SIGKILL or (
        one.exitcode == 0 and _operations(folder, case.rank) <= case.operation
    ), f"{case}: exit code {one.exitcode} after {_operations(folder, case.rank)} operations"
    for worker in workers:
        worker.kill()
        worker.join()


def _work(run: str, attempt: Attempt, case: Case, rank: int, folder: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the server that forked this process may be older than the S3 server
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    saver = Saver(run, attempt, KEEP, lambda step: None)
    storage.exists(storage.join(run, "nothing"))  # what the first use of a client opens is no part of a save
    count = _count_operations(run, case.operation if rank == case.rank else None)
    try:
        saver.save(progress(30), tensors(30, rank))
        saver.finish()
    except RuntimeError:  # of gloo, since the other worker is gone
        if case.operation is None or rank == case.rank:
            raise
        return
    Path(folder, str(rank)).write_text(str(len(count)))


def _count_operations(run: str, last: int | None) -> list[str]:
    """The list that each operation's name is put to; before number `last` this process is killed."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(run)
        if opened or event in _FILE_EVENTS or event == "http.client.send":
            if len(seen) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(event)

    sys.addaudithook(hook)
    return seen


def injure(run: str, damage: Damage, random: Random) -> str | None:
    """Damage one file of the run, mostly of its newest checkpoint; returns which."""
    if damage == "none":
        return None
    newest = storage.parent(storage.files(storage.join(run, "checkpoints"))[-1].uri)
    place = random.choices([newest, storage.join(run, "checkpoints"), storage.join(run, "attempts")], (6, 2, 2))[0]
    uri = random.choice(storage.files(place)).uri
    data = bytearray(storage.read(uri))
    if damage == "missing":
        storage.delete(uri)
    elif damage == "truncated":
        storage.write(uri, bytes(data[: random.randrange(len(data))]))
    else:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        storage.write(uri, bytes(data))
    return uri


def contents(run: str) -> dict[str, bytes]:
    """All files of a run's checkpoints, by path below the run."""
    return {file.uri.removeprefix(run): storage.read(file.uri) for file in storage.files(f"{run}/checkpoints")}


def newest_whole(run: str, whole: dict[str, bytes]) -> str | None:
    """The folder of the newest checkpoint whose files are byte for byte those of undisturbed saves."""
    found = contents(run)
    folders: dict[str, list[str]] = {}
    for path in whole:
        folders.setdefault(storage.parent(path), []).append(path)
    good = [folder for folder, paths in folders.items() if all(found.get(path) == whole[path] for path in paths)]
    return max(good, default=None)


def check(run: str, whole: dict[str, bytes], say: str) -> None:
    """The newest whole checkpoint is what is loaded, with its values, and the run goes on from it.

    Args:
        run: its folder.
        whole: of undisturbed saves, by path.
        say: which case this is, for the one who reads of a failure.
    """
    expected = newest_whole(run, whole)
    attempt, found = checkpoint.begin(run)
    assert (found.uri.removeprefix(run) if found else None) == expected, say
    step = attempt.step
    if found:
        assert (step, found.progress) == (found.progress.step, progress(step)), say
        assert torch.equal(found.load()["weight/a"], torch.full((40 * WORLD,), float(step))), say
    save(run, attempt, step + 10)
    again = checkpoint.newest(run)
    assert again is not None, say
    assert (again.progress.step, again.attempt) == (step + 10, attempt.number), say
