"""Checkpoints are whole or not there, whatever happens to their files and whichever attempt writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cliploom import storage
from cliploom.errors import InputError
from cliploom.training import checkpoint
from cliploom.training.checkpoint import Attempt, Best
from crashes import progress, save, tensors


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of a run's folder."""
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3")() + "/run"


def newest_step(run: str) -> int | None:
    found = checkpoint.newest(run)
    return found.progress.step if found else None


def test_what_was_saved_is_loaded(run: str) -> None:
    attempt, nothing = checkpoint.begin(run)
    assert (attempt, nothing) == (Attempt(1, 0, None), None)
    save(run, attempt, 10)
    resumed, found = checkpoint.begin(run)
    assert found is not None
    assert resumed == Attempt(2, 10, "00000010-0001")
    assert found.progress == progress(10)
    loaded = found.load()
    expected = {"weight/a": torch.full((80,), 10.0), "exp_avg/0": torch.arange(3.0), "exp_avg/1": torch.arange(3.0)}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def flip(uri: str) -> None:
    data = bytearray(storage.read(uri))
    data[len(data) // 2] ^= 1
    storage.write(uri, bytes(data))


def truncate(uri: str) -> None:
    storage.write(uri, storage.read(uri)[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, storage.delete])
@pytest.mark.parametrize("name", ["state-0.safetensors", "state-1.safetensors", "COMMIT.json"])
def test_a_damaged_checkpoint_is_passed_over(run: str, damage: Callable[[str], None], name: str) -> None:
    attempt, _ = checkpoint.begin(run)
    save(run, attempt, 10)
    last = save(run, attempt, 20)
    damage(storage.join(last, name))
    assert newest_step(run) == 10


def test_one_without_its_marker_is_not_there(run: str) -> None:
    attempt, _ = checkpoint.begin(run)
    for rank in (0, 1):
        checkpoint.write_part(run, attempt, 10, rank, tensors(10, rank))
    assert newest_step(run) is None


def test_a_dead_attempt_may_not_commit(run: str) -> None:
    first, _ = checkpoint.begin(run)
    parts = [checkpoint.write_part(run, first, 10, 0, tensors(10, 0))]
    checkpoint.begin(run)
    with pytest.raises(RuntimeError, match="attempt 1 may not commit: attempt 2 has begun"):
        checkpoint.commit(run, first, progress(10), parts)


def test_what_a_dead_attempt_commits_late_does_not_count(run: str) -> None:
    first, _ = checkpoint.begin(run)
    save(run, first, 10)
    late = save(run, first, 30)
    marker = storage.read(storage.join(late, checkpoint.MARKER))
    storage.delete(storage.join(late, checkpoint.MARKER))
    second, _ = checkpoint.begin(run)  # goes on from 10
    storage.write(storage.join(late, checkpoint.MARKER), marker)
    assert newest_step(run) == 10
    save(run, second, 20)
    assert newest_step(run) == 20


@pytest.mark.parametrize("damage", [flip, truncate, storage.delete])
def test_where_an_attempt_began_is_known_without_its_record(run: str, damage: Callable[[str], None]) -> None:
    first, _ = checkpoint.begin(run)
    save(run, first, 10)
    late = save(run, first, 30)
    marker = storage.read(storage.join(late, checkpoint.MARKER))
    storage.delete(storage.join(late, checkpoint.MARKER))
    second, _ = checkpoint.begin(run)
    save(run, second, 20)
    storage.write(storage.join(late, checkpoint.MARKER), marker)
    damage(storage.join(run, "attempts", "0002.json"))
    third, found = checkpoint.begin(run)
    assert third == Attempt(3, 20, "00000020-0002")
    assert found is not None
    with pytest.raises(RuntimeError, match="attempt 2 may not commit: attempt 3 has begun"):
        save(run, second, 40)


def test_old_ones_go_and_whole_ones_are_counted(run: str) -> None:
    attempt, _ = checkpoint.begin(run)
    for step in (10, 20, 30):
        save(run, attempt, step)
    checkpoint.write_part(run, attempt, 25, 0, tensors(25, 0))  # what a killed save left
    checkpoint.remove_old(run, keep=2)
    folders = {storage.name(storage.parent(file.uri)) for file in storage.files(storage.join(run, "checkpoints"))}
    assert folders == {"00000020-0001", "00000030-0001", "00000025-0001"}
    checkpoint.remove_old(run, keep=1)
    assert [found.progress.step for found in checkpoint.committed(run)] == [30]


def test_rows_of_metrics_are_those_up_to_a_step(run: str) -> None:
    attempt, _ = checkpoint.begin(run)
    for step in (10, 20, 30):
        save(run, attempt, step, rows=[{"step": step - 5, "loss": 0.5}, {"step": step, "loss": float("nan")}])
    checkpoint.remove_old(run, keep=2)
    assert [row["step"] for row in checkpoint.rows(run, 20)] == [15, 20]
    assert [row["step"] for row in checkpoint.rows(run, 30)] == [15, 20, 25, 30]


def test_the_best_stays_however_old(run: str) -> None:
    attempt, _ = checkpoint.begin(run)
    assert checkpoint.best(run) is None
    for step in (10, 20):
        save(run, attempt, step)
    best = Best("00000010-0001", 10, "zeroshot/a/acc1", 0.5)
    checkpoint.keep_also(run, best, ["00000020-0001"])
    for step in (30, 40, 50):
        save(run, attempt, step)
        checkpoint.remove_old(run, keep=1)
    assert [found.progress.step for found in checkpoint.committed(run)] == [50, 20, 10]
    checkpoint.keep_also(run, best, [])
    checkpoint.remove_old(run, keep=1)
    assert [found.progress.step for found in checkpoint.committed(run)] == [50, 10]
    assert checkpoint.best(run) == best
    truncate(storage.join(run, "kept.json"))
    assert checkpoint.best(run) is None
    checkpoint.remove_old(run, keep=1)
    assert newest_step(run) == 50


def test_a_newer_format_is_refused_with_a_sentence(run: str) -> None:
    attempt, _ = checkpoint.begin(run)
    place = storage.join(save(run, attempt, 10), checkpoint.MARKER)
    marker = json.loads(storage.read(place))["commit"] | {"format_version": 99}
    storage.write(place, json.dumps({"sha256": checkpoint._digest(marker), "commit": marker}).encode())
    with pytest.raises(InputError, match="has checkpoint format 99, but this cliploom reads 2"):
        checkpoint.newest(run)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_slices_of_any_sizes_make_the_whole(sizes: list[int], random: Random) -> None:
    whole = torch.arange(float(sum(sizes)))
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    parts = [
        {f"weight/a.b@{start}": whole[start : start + size]} for start, size in zip(starts, sizes, strict=True) if size
    ]
    random.shuffle(parts)
    if parts:
        assert torch.equal(checkpoint.merge(parts)["weight/a.b"], whole)


@pytest.mark.parametrize("starts", [(0, 3), (0, 5), (2, 4)])
def test_slices_that_do_not_meet_are_refused(starts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="the slices of weight/a do not meet"):
        checkpoint.merge([{f"weight/a@{start}": torch.zeros(4)} for start in starts])
