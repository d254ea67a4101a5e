"""The stream brings every worker the batches of its plan, through cuts, faults and killed tasks, and no faster than
they are taken."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pairs
from cliploom.cluster import connect
from cliploom.data import blocks, manifest, mixture, stream, vocabulary
from cliploom.data.plan import WorkItem, work_items
from cliploom.data.reader import Batch, Reader, Source
from cliploom.data.shards import ShardWriter
from cliploom.data.stream import Split, Stream, batches, stretches
from cliploom.errors import InputError
from cliploom.settings.cluster import Ray
from cliploom.settings.data import Data

SIZE = 32


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Two shards of 24 samples; of the second, one picture is none."""
    folder = tmp_path_factory.mktemp("shards")
    rows = []
    for number in range(2):
        with ShardWriter(str(folder / f"{number}.tar")) as writer:
            for i, colour in zip(range(24), itertools.cycle(pairs.COLOURS), strict=False):
                image = b"none" if (number, i) == (1, 5) else pairs.draw(colour, "ellipse", 40 + i)
                writer.add(f"{number}{i:03d}", image, "png", [f"a {colour} ellipse"])
        rows.append((writer.shard, writer.index))
    found = mixture.choose(Data(manifest=manifest.write(str(folder / "manifest.parquet"), rows).uri))
    return Source(found.recipe, found.fingerprint, 3, 2, SIZE, (0.5, 1.0), None, vocabulary.clip().digest)


def assert_same(found: Batch, expected: Batch) -> None:
    assert np.array_equal(found.pixels, expected.pixels)
    assert np.array_equal(found.tokens, expected.tokens)
    assert np.array_equal(found.samples, expected.samples)
    assert found.faults == expected.faults
    assert [array.dtype for array in (found.pixels, found.tokens, found.samples)] == [np.uint8, np.int32, np.int64]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 64))
def test_stretches_are_all_items_in_order_and_bounded(batch: int, micro: int, most: int) -> None:
    items = list(work_items(2, 5, batch, 1, micro))
    found = list(stretches(iter(items), most))
    assert list(itertools.chain.from_iterable(found)) == items
    assert len(found[0]) == 1
    assert all(len(stretch) == 1 or sum(item.rows for item in stretch) <= most for stretch in found)


def test_a_block_holds_what_the_reader_reads(source: Source) -> None:
    reader = Reader(source)
    items = list(work_items(0, 6, 10, 2, 3))  # 60 of 48 samples: the bad one is met, and some rows are padding
    memory = blocks.Memory()
    memory.batch(70, SIZE).pixels[:] = memory.batch(70, SIZE).samples[:, :1, None, None] = 7  # of a stretch before
    block = blocks.read(reader, items, memory)
    assert block.num_rows == 1
    found = list(blocks.batches(block, SIZE))
    assert [item for item, _ in found] == items
    for item, batch in found:
        assert_same(batch, reader.read(item))
        assert min(batch.work) > 0
    assert [fault.key for _, batch in found for fault in batch.faults] == ["1005"]
    first, second = (batch.pixels for _, batch in found[:2])
    assert second.ctypes.data - first.ctypes.data == first.nbytes


def test_a_wrong_batch_stops_the_worker() -> None:
    items = list(work_items(0, 4, 8, 2, 4))
    pairs_of = [(item, Batch.empty(item.rows, 2)) for item in items]
    assert [item for item, _ in stream._checked(iter(pairs_of), iter(items))] == items
    with pytest.raises(RuntimeError, match=r"brought WorkItem\(step=0, rank=1.*in place of WorkItem\(step=0, rank=0"):
        list(stream._checked(iter(pairs_of[1:]), iter(items)))
    with pytest.raises(RuntimeError, match="ended before"):
        list(stream._checked(iter(pairs_of[:-1]), iter(items)))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connect(Ray(cpus=2, object_store_gb=0.2)):
        yield


def received(split: Split) -> Iterator[tuple[WorkItem, Batch]]:
    return batches(split, 2)


@pytest.mark.integration
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("world", "first"), [(1, 0), (2, 3)])
def test_any_cut_brings_the_plan_s_batches(
    source: Source, monkeypatch: pytest.MonkeyPatch, world: int, first: int
) -> None:
    """Over three epochs of 47 samples, several stretches and several executions."""
    monkeypatch.setattr(stream, "_STRETCH_BYTES", 8 * 3 * SIZE**2)
    monkeypatch.setattr(stream, "_EXECUTION", 4)
    reader = Reader(source)
    made = Stream(source, 15, 10, 3, 0.5)
    splits = made.split(first, world)
    for split, other in zip(splits, made.split(first, world), strict=True):
        found = list(received(split))
        assert [item for item, _ in found] == list(other.items())
        for item, batch in found:
            assert_same(batch, reader.read(item))
    assert sorted(item for split in splits for item in split.items()) == sorted(made.items(first, world))


@pytest.mark.integration
@pytest.mark.usefixtures("cluster")
def test_what_the_user_can_mend_comes_as_it_was_raised(source: Source) -> None:
    [split] = Stream(replace(source, fingerprint="another"), 4, 8, 8, 0.5).split(0, 1)
    with pytest.raises(InputError, match=r"manifest\.parquet has changed since the run began"):
        list(received(split))


@pytest.mark.integration
@pytest.mark.usefixtures("cluster")
def test_who_takes_slowly_finds_no_more_than_the_bound_in_the_object_store(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 tasks, of half a CPU each on 2, and 5 stretches more, of 8 rows each and 60 in all.

    What is done with goes a little later, up to as much again; a stretch has tokens beside its pixels.
    """
    row = 3 * 160**2
    monkeypatch.setattr(stream, "_STRETCH_BYTES", 8 * row)
    [split] = Stream(replace(source, image_size=160), 60, 8, 8, 0.5).split(0, 1)
    most = 0
    for _ in received(split):
        most = max(most, *(stored() for _ in range(20)))  # time enough to read all, if nothing held it back
    assert 8 * row < most <= 2 * (4 + 5) * 8 * row


def stored() -> int:
    """Bytes in the object store."""
    import ray
    from ray._private.internal_api import node_stats

    [node] = ray.nodes()
    answer = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return int(answer.store_stats.object_store_bytes_used)


@pytest.mark.integration
@pytest.mark.usefixtures("cluster")
def test_a_killed_task_is_read_again_and_brings_the_same(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace(source, image_size=320)  # a task takes a tenth of a second
    monkeypatch.setattr(stream, "_STRETCH_BYTES", 0)
    reader, killed = Reader(source), 0
    [split] = Stream(source, 16, 64, 64, 0.5).split(0, 1)
    for item, batch in received(split):
        if killed < 2:
            killed += any(kill_a_task() for _ in range(200))  # one begins when a batch is taken
        assert_same(batch, reader.read(item))
    assert killed == 2


@pytest.mark.integration
@pytest.mark.usefixtures("cluster")
def test_a_process_without_a_task_is_kept_for_the_next() -> None:
    """As beside training, where more processes reserve CPUs than there are."""
    import ray

    class Actor:
        def process(self) -> int:
            return os.getpid()

    actors: list[Any] = [ray.remote(num_cpus=0.75)(Actor).remote() for _ in range(2)]
    ray.get([actor.process.remote() for actor in actors])
    process = psutil.Process(ray.get(ray.remote(num_cpus=0.5)(lambda: os.getpid()).remote()))
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(3)


def kill_a_task() -> bool:
    """Kill one process that runs a task of Ray Data, if there is one now."""
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::MapBatch"):
            process.kill()
            return True
    return False
