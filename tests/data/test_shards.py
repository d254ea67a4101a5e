from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.data import manifest, shards
from cliploom.data.faults import BadSample
from cliploom.data.shards import ShardWriter, index_shard, read_samples
from cliploom.data.tars import Fault
from cliploom.errors import InputError

KEYS = st.from_regex(r"[a-z0-9_-]{1,120}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
SAMPLES = st.lists(
    st.tuples(KEYS, st.binary(max_size=1500), st.sampled_from(shards.IMAGE_EXTENSIONS), TEXTS),
    max_size=8,
    unique_by=lambda sample: sample[0],
)


def write(path: Path, samples: list[tuple[str, bytes, str, str]]) -> ShardWriter:
    with ShardWriter(str(path)) as writer:
        for key, image, extension, caption in samples:
            writer.add(key, image, extension, [caption], {"note": "é"})
    return writer


def tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return str(path)


def webdataset(path: Path) -> dict[str, dict[str, bytes]]:
    """The samples as WebDataset's documentation defines them: members of one key, which ends at the first dot."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as file:
        for member in file:
            match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name)
            if member.isreg() and match:
                content = file.extractfile(member)
                assert content
                found.setdefault(match[1], {})[match[2].lower()] = content.read()
    return found


@given(samples=SAMPLES)
def test_index_points_at_the_bytes_that_a_tar_reader_finds(
    samples: list[tuple[str, bytes, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("shard") / "0.tar"
    written = write(path, samples)
    expected = webdataset(path)
    assert written.index.keys == [key for key, *_ in samples]
    assert read_samples(written.shard, written.index, range(len(samples))) == [
        (expected[key][extension], expected[key]["txt"]) for key, _, extension, _ in samples
    ]
    assert expected == {
        key: {extension: image, "txt": caption.encode(), "json": b'{"note": "\xc3\xa9"}'}
        for key, image, extension, caption in samples
    }


@given(samples=SAMPLES)
def test_indexing_a_shard_finds_what_its_writer_wrote(
    samples: list[tuple[str, bytes, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    written = write(folder / "0.tar", samples)
    shard, index, faults = index_shard(written.shard.uri, content_digest=True)
    assert (shard, index.keys, faults) == (written.shard, written.index.keys, [])
    for name in shards.SPANS:
        np.testing.assert_array_equal(getattr(index, name), getattr(written.index, name))
        assert getattr(index, name).dtype == np.int64
    assert write(folder / "again.tar", samples).shard.digest == shard.digest


def test_several_captions_are_in_the_json_and_the_first_in_the_txt(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "0.tar"), several=True) as writer:
        writer.add("a", b"A", "png", ["one", "two"], {"style": "s"})
        writer.add("b", b"B", "jpg", ["only"])
    members = webdataset(tmp_path / "0.tar")
    assert members["a"]["txt"] == b"one"
    assert json.loads(members["a"]["json"]) == {"style": "s", "captions": ["one", "two"]}
    shard, index, _ = index_shard(str(tmp_path / "0.tar"), content_digest=True)
    assert shard == writer.shard
    read = read_samples(shard, index, [1, 0])
    assert [shards.captions(shard, member) for _, member in read] == [["only"], ["one", "two"]]


def test_writer_refuses_captions_that_it_was_not_declared_to_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="declared"), ShardWriter(str(tmp_path / "0.tar")) as writer:
        writer.add("a", b"A", "png", ["one", "two"])
    assert list(tmp_path.iterdir()) == []  # a shard is whole or not there


def test_members_of_others_are_understood(tmp_path: Path) -> None:
    long = "d/" * 60 + "k" * 120
    uri = tar(
        tmp_path / "0.tar",
        {
            "a.JPG": b"1",
            "a.txt": b"2",
            "./b.jpeg": b"3",
            "./b.txt": b"4",
            f"{long}.webp": b"5",
            f"{long}.txt": b"6",
            "c.txt": b"8",  # the order within a sample is free
            "c.json": b'{"caption": "img2dataset\'s"}',
            "c.png": b"7",
            "d.e.jpg": b"no image: the extension is e.jpg",
            "README": b"",
        },
    )
    shard, index, faults = index_shard(uri)
    assert index.keys == ["a", "./b", long, "c"]
    assert read_samples(shard, index, range(4)) == [(b"1", b"2"), (b"3", b"4"), (b"5", b"6"), (b"7", b"8")]
    assert (shard.samples, shard.caption_member, faults) == (4, "txt", [])


def test_what_is_no_pair_is_left_out_and_named(tmp_path: Path) -> None:
    members = {"a.jpg": b"1", "b.txt": b"2", "c.jpg": b"3", "c.png": b"4", "c.txt": b"5"}
    _, index, faults = index_shard(uri := tar(tmp_path / "0.tar", members))
    assert index.keys == ["c"]
    assert sorted(faults) == [
        Fault(f"{uri}#a", "image without caption"),
        Fault(f"{uri}#b", "caption without image"),
        Fault(f"{uri}#c", "second image of a key"),
    ]


def test_a_key_that_is_not_utf_8_is_left_out_and_named(tmp_path: Path) -> None:
    members = {"caf\udce9.jpg": b"1", "caf\udce9.txt": b"2", "a.jpg": b"3", "a.txt": b"4"}  # a byte of Latin-1
    shard, index, faults = index_shard(uri := tar(tmp_path / "0.tar", members))
    assert index.keys == ["a"]
    assert faults == [Fault(f"{uri}#caf\udce9", "key is not UTF-8 text")]
    assert manifest.write(str(tmp_path / manifest.NAME), [(shard, index)]).index(0).keys == ["a"]


@given(data=st.data())
def test_of_a_truncated_tar_all_that_is_whole_is_indexed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("shard") / "0.tar"
    rng = np.random.default_rng(0)
    written = write(path, [(str(i), rng.bytes(int(rng.integers(2000))), "png", f"caption {i}") for i in range(6)])
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:cut])
    shard, index, faults = index_shard(str(path))
    ends = written.index.caption_offset + written.index.caption_size
    last = len(content.rstrip(b"\0")) // 512 * 512 + 512  # end of the last member; after it is tar's end mark
    assert index.keys == [str(i) for i in np.flatnonzero(ends <= cut)]
    assert Fault(str(path), "truncated or damaged tar") in faults if cut < last + 512 else not faults
    read_samples(shard, index, range(len(index)))


def test_a_damaged_header_ends_the_tar_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    written = write(path, [(str(i), bytes(100), "png", "caption") for i in range(3)])
    content = bytearray(path.read_bytes())
    content[int(written.index.image_offset[1]) - 400] ^= 0xFF
    path.write_bytes(content)
    _, index, faults = index_shard(str(path))
    assert index.keys == ["0"]
    assert faults == [Fault(str(path), "truncated or damaged tar")]


def test_no_tar_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"<html>" * 1000)
    shard, _, faults = index_shard(str(tmp_path / "0.tar"))
    assert (shard.samples, [fault.cause for fault in faults]) == (0, ["truncated or damaged tar"])
    with pytest.raises(InputError, match=r"1\.tar"):
        index_shard(str(tmp_path / "1.tar"))


def test_reading_a_shard_that_changed_or_is_gone_names_it(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    written = write(path, [("a", bytes(5000), "png", "caption")])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"0\.tar has changed"):
        read_samples(written.shard, written.index, [0])
    path.unlink()
    with pytest.raises(InputError, match=r"0\.tar is gone"):
        read_samples(written.shard, written.index, [0])


@pytest.mark.parametrize("member", [b"no json", b"[]", b"{}", b'{"captions": "one"}', b'{"captions": [1]}', b"\xff"])
def test_captions_that_are_none(member: bytes) -> None:
    with pytest.raises(BadSample, match="no captions" if member[:1] in b"[{" else "not UTF-8 text"):
        shards.captions(shards.Shard("u", 0, "", 1, "json"), member)
