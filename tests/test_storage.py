from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom import storage
from cliploom.errors import InputError
from cliploom.storage import File

on_s3 = pytest.mark.integration


@pytest.fixture(params=["local", pytest.param("s3", marks=on_s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty folder."""
    return str(tmp_path / "root") if request.param == "local" else request.getfixturevalue("s3")() + "/root"


def test_what_is_written_is_read(root: str) -> None:
    uri = storage.join(root, "deep/er", "file.bin")
    for data in (b"first", b"", bytes(range(256)) * 5000):
        storage.write(uri, data)
        assert storage.read(uri) == data
        assert storage.size(uri) == len(data)
        assert storage.exists(uri)


def test_pieces_are_written_one_after_the_other(root: str) -> None:
    """Also those that S3 gets in several requests, whose borders are not theirs."""
    uri = storage.join(root, "file")
    for sizes in ((), (0, 3, 0), (5 << 20, 1, 9 << 20, 0, 77), (20 << 20,)):
        pieces = [random.Random(size).randbytes(size) for size in sizes]
        storage.write(uri, [memoryview(piece) for piece in pieces])
        assert storage.read(uri) == b"".join(pieces)


def test_ranges_are_read(root: str) -> None:
    uri = storage.join(root, "file")
    storage.write(uri, b"0123456789")
    assert storage.read(uri, 3) == b"3456789"
    assert storage.read(uri, 3, 4) == b"3456"
    assert storage.read(uri, 0, 1) == b"0"
    assert storage.read(uri, 8, 100) == b"89"
    assert storage.read(uri, 4, 0) == b""
    assert storage.read(uri, 0, 0) == b""


def test_a_range_past_the_end_is_empty(root: str) -> None:
    uri = storage.join(root, "file")
    storage.write(uri, b"0123456789")
    assert storage.read(uri, 10) == b""
    assert storage.read(uri, 25, 5) == b""


@pytest.mark.parametrize("start", [0, 3])
def test_what_is_missing_is_not_found(root: str, start: int, tmp_path: Path) -> None:
    uri = storage.join(root, "missing")
    storage.write(storage.join(root, "other"), b"")
    with pytest.raises(FileNotFoundError, match="missing"):
        storage.read(uri, start)
    with pytest.raises(FileNotFoundError, match="missing"):
        storage.size(uri)
    with pytest.raises(FileNotFoundError, match="missing"):
        storage.download(uri, tmp_path / "copy")
    assert not storage.exists(uri)
    assert storage.files(uri) == []
    assert not (tmp_path / "copy").exists()


def test_one_of_many_creators_wins(root: str) -> None:
    uri = storage.join(root, "lock")
    together = threading.Barrier(16)

    def create(number: int) -> bool:
        together.wait()
        return storage.create(uri, str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    assert sum(won) == 1
    assert storage.read(uri) == str(won.index(True)).encode()
    assert not storage.create(uri, b"late")


def test_readers_see_whole_files_only(tmp_path: Path) -> None:
    uri = str(tmp_path / "file")
    contents = [bytes([value]) * 200_000 for value in range(2)]
    storage.write(uri, contents[0])
    done = threading.Event()

    def overwrite() -> None:
        for turn in range(20):
            storage.write(uri, contents[turn % 2])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(overwrite)
        while not done.is_set() and not writing.done():
            assert storage.read(uri) in contents
        writing.result()
    assert storage.files(str(tmp_path)) == [File(uri, 200_000)]


WRITER = """
import sys
from pathlib import Path
from cliploom.aside import Aside
with Aside(Path(sys.argv[1])) as aside:
    aside.write([memoryview(b"half")])
    print("written", flush=True)
    sys.stdin.read()
    aside.commit()
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_ones_file_is_not(tmp_path: Path) -> None:
    def writer(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(tmp_path / name)]
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert started.stdout
        assert started.stdout.readline() == "written\n"
        return started

    killed, living = writer("killed"), writer("living")
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 2
    storage.write(str(tmp_path / "next"), b"data")
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".aside-")]) == 1
    living.communicate()  # its input ends
    assert living.returncode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"living": b"half", "next": b"data"}


def test_listing_has_everything_below_in_order(root: str) -> None:
    names = ["a.txt", "b/c/d.txt", "b/c.txt", "b.txt", "ü mlaut/ö.txt"]
    for name in names:
        storage.write(storage.join(root, name), name.encode())
    storage.write(root + "-sibling/x", b"")
    found = storage.files(root)
    assert found == sorted(File(storage.join(root, name), len(name.encode())) for name in names)
    assert found == storage.files(root + "/")
    assert [storage.name(file.uri) for file in storage.files(storage.join(root, "b"))] == ["c.txt", "d.txt"]


@on_s3
def test_listing_and_deleting_go_beyond_a_page(s3: Callable[[], str]) -> None:
    root = s3() + "/many"
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: storage.write(f"{root}/{number:04d}", b""), range(1005)))
    assert len(storage.files(root)) == 1005
    storage.delete(root)
    assert storage.files(root) == []


def test_deleting(root: str) -> None:
    for name in ("keep", "file", "folder/a", "folder/b/c", "folder-two/d"):
        storage.write(storage.join(root, name), b"")
    storage.delete(storage.join(root, "file"))
    storage.delete(storage.join(root, "folder"))
    storage.delete(storage.join(root, "never was"))
    assert [storage.name(file.uri) for file in storage.files(root)] == ["d", "keep"]


def test_upload_and_download(root: str, tmp_path: Path) -> None:
    data = os.urandom(9 * 2**20)  # above the size from which boto3 sends several parts
    source, copy = tmp_path / "source", tmp_path / "made" / "on the way" / "copy"
    source.write_bytes(data)
    uri = storage.join(root, "up/loaded")
    storage.upload(source, uri)
    storage.download(uri, copy)
    assert copy.read_bytes() == data
    assert storage.read(uri, len(data) - 5) == data[-5:]
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_pyarrow_reads_the_same_files(root: str) -> None:
    uri = storage.join(root, "file")
    storage.write(uri, b"content")
    system, path = storage.filesystem(uri)
    with system.open_input_file(path) as file:
        assert file.read() == b"content"


def test_check_leaves_nothing(root: str) -> None:
    storage.check(root, "run.storage")
    assert storage.files(root) == []


def test_a_local_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^run\.storage: .*file/below can't be written to: [^\n]+$"):
        storage.check(str(tmp_path / "file" / "below"), "run.storage")


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "hdfs://x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match="only local paths and s3:// are known"):
        storage.read(uri)


def test_local_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write("folder/file", b"x")
    assert storage.read(f"file://{tmp_path}/folder/file") == b"x"
    assert storage.absolute("folder/file") == storage.absolute(f"file://{tmp_path}/folder/file")
    assert storage.absolute("s3://bucket/x/") == "s3://bucket/x"


def test_parts_of_a_uri() -> None:
    assert storage.join("s3://b/x/", "/y/", "z") == "s3://b/x/y/z"
    assert storage.join("/x", "y") == "/x/y"
    assert storage.join("/", "y") == "/y"
    assert storage.parent("s3://b/x/y") == "s3://b/x"
    assert storage.parent("file") == "."
    assert storage.parent("/file") == "/"
    assert storage.name("s3://b/x/y.tar") == "y.tar"
    assert storage.name("x/y/") == "y"


def test_patterns() -> None:
    assert storage.expand("s3://b/x.tar") == ["s3://b/x.tar"]
    assert storage.expand("s3://b/{008..011}.tar") == [f"s3://b/{n}.tar" for n in ("008", "009", "010", "011")]
    assert storage.expand("{0..1}/{3..4}") == ["0/3", "0/4", "1/3", "1/4"]


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(InputError, match=r"^s3://b/\{9\.\.1\}\.tar: the range \{9\.\.1\} is empty"):
        storage.expand("s3://b/{9..1}.tar")


@given(first=st.integers(0, 99), count=st.integers(1, 20), digits=st.integers(1, 6))
def test_a_pattern_has_each_number_once_in_order(first: int, count: int, digits: int) -> None:
    found = storage.expand(f"a{{{first:0{digits}d}..{first + count - 1}}}.tar")
    assert [int(uri[1:-4]) for uri in found] == list(range(first, first + count))
    assert all(len(uri) >= digits + 5 for uri in found)
