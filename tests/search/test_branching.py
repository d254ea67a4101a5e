"""A run that goes on from another's checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cliploom.search.branching import copy_checkpoint
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Progress


def save(run: str, step: int) -> None:
    attempt = checkpoint.read_attempts(run)[-1]
    part = checkpoint.write_part(run, attempt, step, 0, {"weight/w@0": torch.full((3,), float(step))})
    checkpoint.commit(run, attempt, Progress(step, step, step, "data", {}), [part])


def test_the_copy_goes_on_from_that_step_and_the_source_stays(tmp_path: Path) -> None:
    source, target = str(tmp_path / "source"), str(tmp_path / "target")
    checkpoint.begin(source)
    for step in (1, 2, 3):
        save(source, step)
    copy_checkpoint(source, target, 2)
    attempt, found = checkpoint.begin(target)
    assert found is not None
    assert (attempt.step, found.progress.step) == (2, 2)
    assert found.load()["weight/w"].tolist() == [2.0, 2.0, 2.0]
    assert [one.progress.step for one in checkpoint.committed(source)] == [3, 2, 1]


def test_a_copy_that_has_begun_is_left_alone(tmp_path: Path) -> None:
    source, target = str(tmp_path / "source"), str(tmp_path / "target")
    checkpoint.begin(source)
    save(source, 1)
    copy_checkpoint(source, target, 1)
    checkpoint.begin(target)
    save(target, 5)
    copy_checkpoint(source, target, 1)
    newest = checkpoint.newest(target)
    assert newest is not None
    assert newest.progress.step == 5


def test_a_checkpoint_that_is_gone_is_said(tmp_path: Path) -> None:
    source = str(tmp_path / "source")
    checkpoint.begin(source)
    with pytest.raises(RuntimeError, match="has no checkpoint of step 7"):
        copy_checkpoint(source, str(tmp_path / "target"), 7)
