"""Saving beside training: what fails in the thread is raised in the loop, and every save is whole before the next."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import processes
import proxy
from cliploom import storage
from cliploom.errors import StorageError
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Progress
from cliploom.training.saver import SaveError, Saver

pytestmark = pytest.mark.integration


def progress(step: int) -> Progress:
    return Progress(step, 8 * step, step, "print", {})


def save_several(folder: str) -> list[int]:
    """Steps of which rank 0 heard that they are whole."""
    heard: list[int] = []
    begun = [checkpoint.begin(folder)[0] if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(begun)
    saver = Saver(folder, begun[0], 2, heard.append)  # type: ignore[arg-type]
    value = torch.zeros(1)
    for step in range(1, 6):
        saver.save(progress(step), {f"weight/a@{dist.get_rank()}": torch.full((1,), float(step))})
        for _ in range(50):  # the step's own collectives, in the group that the thread does not use
            dist.all_reduce(value)
    saver.finish()
    return heard


def save_where_nothing_can_be_written(folder: str) -> str:
    saver = Saver(folder, checkpoint.Attempt(1, 0, None), 2, lambda _: None)
    saver.save(progress(1), {"weight/a@0": torch.zeros(1)})
    with pytest.raises(SaveError, match="Not a directory"):
        saver.save(progress(2), {"weight/a@0": torch.zeros(1)})
    with pytest.raises(SaveError) as caught:
        saver.check()
    return str(caught.value)


def save_on_a_full_disk(folder: str) -> tuple[str, int]:
    """Files of this process can't grow above 64 KiB, as on a full disk; what is said, and what counts after."""
    attempt, _ = checkpoint.begin(folder)
    saver = Saver(folder, attempt, 2, lambda _: None)
    saver.save(progress(1), {"weight/a@0": torch.zeros(1)})
    saver.finish()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
    saver.save(progress(2), {"weight/a@0": torch.zeros(2**20)})
    with pytest.raises(SaveError) as caught:
        saver.finish()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found = checkpoint.newest(folder)
    assert found is not None
    return str(caught.value), found.progress.step


def save_while_s3_is_away(folder: str) -> tuple[int, list[int]]:
    """Collectives of the step that came about while a save tried again, and what rank 0 heard."""
    heard: list[int] = []
    begun = [checkpoint.begin(folder)[0] if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(begun)
    saver = Saver(folder, begun[0], 2, heard.append)  # type: ignore[arg-type]
    saver.save(progress(1), {f"weight/a@{dist.get_rank()}": torch.ones(1)})
    going_on, steps = torch.ones(1), 0
    while going_on:
        going_on = torch.tensor([float(dist.get_rank() == 0 and not heard)])
        dist.all_reduce(going_on)
        steps += 1
    saver.finish()
    return steps, heard


def test_saves_are_whole_in_order_and_beside_other_collectives(tmp_path: Path) -> None:
    heard, silent = processes.run(2, save_several, str(tmp_path / "run"))
    assert (heard, silent) == ([1, 2, 3, 4, 5], [])
    found = checkpoint.committed(str(tmp_path / "run"))
    assert [c.progress.step for c in found] == [5, 4]
    assert torch.equal(found[0].load()["weight/a"], torch.full((2,), 5.0))


def test_a_save_that_fails_stops_the_training(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the run's folder should be")
    [said] = processes.run(1, save_where_nothing_can_be_written, str(tmp_path / "run"))
    assert said.startswith(f"the checkpoint of step 1 can't be saved in {tmp_path / 'run'}: ")


def test_a_full_disk_loses_no_checkpoint_that_was_whole(tmp_path: Path) -> None:
    [(said, newest)] = processes.run(1, save_on_a_full_disk, str(tmp_path / "run"))
    assert said.startswith("the checkpoint of step 2 can't be saved in ")
    assert newest == 1


def save_where_nothing_can_be_removed(folder: str) -> list[int]:
    heard: list[int] = []
    saver = Saver(folder, checkpoint.begin(folder)[0], 1, heard.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "delete", refuse)
        for step in (1, 2, 3):
            saver.save(progress(step), {"weight/a@0": torch.zeros(1)})
        saver.finish()
    saver.save(progress(4), {"weight/a@0": torch.zeros(1)})
    saver.finish()
    return heard


def refuse(uri: str) -> None:
    raise StorageError(f"{uri} can't be deleted")


def test_what_can_not_be_removed_now_is_removed_after_a_later_save(tmp_path: Path) -> None:
    assert processes.run(1, save_where_nothing_can_be_removed, str(tmp_path / "run")) == [[1, 2, 3, 4]]
    assert [found.progress.step for found in checkpoint.committed(str(tmp_path / "run"))] == [4]


def test_training_goes_on_while_s3_is_away(s3: Callable[[], str]) -> None:
    folder = s3() + "/run"
    with proxy.before(os.environ["AWS_ENDPOINT_URL"]) as between, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        faults: Iterator[proxy.Fault] = iter(["busy", "reset", "busy", "busy"])
        between.fault = lambda line, _: next(faults, None) if line.startswith("PUT") and "state-" in line else None
        (steps, heard), _ = processes.run(2, save_while_s3_is_away, folder)
        written = [line for line in between.requests if line.startswith("PUT") and "state-" in line]
    assert heard == [1]
    assert len(written) >= 4
    assert steps > 50
    found = checkpoint.newest(folder)
    assert found is not None
    assert torch.equal(found.load()["weight/a"], torch.ones(2))
