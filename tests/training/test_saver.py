"""Saving beside training: what fails in the thread is raised in the loop, and every save is whole before the next."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import processes
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Progress
from cliploom.training.saver import Saver

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
    with pytest.raises(OSError, match="Not a directory") as caught:
        saver.save(progress(2), {"weight/a@0": torch.zeros(1)})
    return str(caught.value)


def test_saves_are_whole_in_order_and_beside_other_collectives(tmp_path: Path) -> None:
    heard, silent = processes.run(2, save_several, str(tmp_path / "run"))
    assert (heard, silent) == ([1, 2, 3, 4, 5], [])
    found = checkpoint.committed(str(tmp_path / "run"))
    assert [c.progress.step for c in found] == [5, 4]
    assert torch.equal(found[0].load()["weight/a"], torch.full((2,), 5.0))


def test_a_save_that_fails_stops_the_training(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the run's folder should be")
    [said] = processes.run(1, save_where_nothing_can_be_written, str(tmp_path / "run"))
    assert "run" in said
