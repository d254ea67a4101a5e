from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest

from cliploom import storage
from cliploom.data import cache
from cliploom.errors import InputError, StorageError

CONTENT = b"shard " * 1000
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Remote:
    """Objects below s3://b/ that are files here, and a count of their downloads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.downloads = folder, 0

    def put(self, name: str, content: bytes = CONTENT) -> str:
        (self.folder / name).write_bytes(content)
        return f"s3://b/{name}"

    def download(self, uri: str, path: Path) -> None:
        self.downloads += 1
        shutil.copyfile(self.folder / storage.name(uri), path)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    (tmp_path / "remote").mkdir()
    fake = Remote(tmp_path / "remote")
    monkeypatch.setattr(storage, "download", fake.download)
    monkeypatch.setenv("CLIPLOOM_CACHE", str(tmp_path / "cache"))
    return fake


def test_a_shard_is_downloaded_once_whoever_asks(remote: Remote) -> None:
    uri = remote.put("0.tar")
    found = []

    def read() -> None:
        with cache.opened(uri, len(CONTENT), DIGEST) as file:
            found.append(file.read())

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 8
    assert remote.downloads == 1


def test_what_is_asked_for_ahead_is_there_when_it_is_read(remote: Remote) -> None:
    wanted = [(remote.put(f"{i}.tar"), len(CONTENT), DIGEST) for i in range(3)]
    gone = ("s3://b/gone.tar", len(CONTENT), DIGEST)
    downloader = cache.Downloader()
    for _ in range(2):
        downloader.ask([gone, *wanted])
    waited = threading.Event()
    while remote.downloads < 4 or len(list(cache.folder().glob("*.tar"))) < 3:
        assert not waited.wait(0.01)
    for shard in wanted:
        with cache.opened(*shard) as file:
            assert file.read() == CONTENT
    assert remote.downloads == 4
    with pytest.raises(InputError, match=r"shard s3://b/gone\.tar is gone"):
        cache.opened(*gone)


def test_the_least_recently_used_goes_when_the_cache_is_full(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPLOOM_CACHE_GB", str(2.5 * len(CONTENT) / 2**30))
    uris = [remote.put(f"{i}.tar") for i in range(3)]
    first = cache.opened(uris[0], len(CONTENT), DIGEST)
    for when, path in enumerate(cache.folder().glob("*.tar")):
        os.utime(path, (when, when))  # long ago
    for uri in uris[1:]:
        cache.opened(uri, len(CONTENT), DIGEST).close()
    assert len(list(cache.folder().glob("*.tar"))) == 2
    assert first.read() == CONTENT  # who reads it keeps it
    first.close()
    cache.opened(uris[2], len(CONTENT), DIGEST).close()
    assert remote.downloads == 3
    cache.opened(uris[0], len(CONTENT), DIGEST).close()
    assert remote.downloads == 4


@pytest.mark.parametrize("content", [b"short", CONTENT[::-1]])
def test_another_shard_than_the_manifests_is_refused_and_not_kept(remote: Remote, content: bytes) -> None:
    uri = remote.put("0.tar", content)
    with pytest.raises(InputError, match=r"s3://b/0\.tar has changed"):
        cache.opened(uri, len(CONTENT), DIGEST)
    assert not list(cache.folder().glob("*.tar"))
    remote.put("0.tar")
    with cache.opened(uri, len(CONTENT), DIGEST) as file:
        assert file.read() == CONTENT


def test_a_shard_that_is_gone_is_named(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"s3://b/9\.tar is gone"):
        cache.opened("s3://b/9.tar", 1, DIGEST)
    with pytest.raises(InputError, match=r"9\.tar is gone"):
        cache.opened(str(tmp_path / "9.tar"), 1, DIGEST)


def test_a_shard_that_goes_while_it_is_opened_is_read_all_the_same(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = remote.put("0.tar")
    utime = os.utime

    def after_another_made_room(file: int | Path) -> None:
        for path in cache.folder().glob("*.tar"):
            path.unlink()
        utime(file)

    monkeypatch.setattr(os, "utime", after_another_made_room)
    for _ in range(2):
        with cache.opened(uri, len(CONTENT), DIGEST) as file:
            assert file.read() == CONTENT


def test_shards_that_are_under_way_take_their_room_already(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPLOOM_CACHE_GB", str(2.5 * len(CONTENT) / 2**30))
    before, first, second = (remote.put(f"{i}.tar") for i in range(3))
    cache.opened(before, len(CONTENT), DIGEST).close()
    download = remote.download

    def meanwhile(uri: str, path: Path) -> None:
        if uri == first:
            cache.opened(second, len(CONTENT), DIGEST).close()
        download(uri, path)

    monkeypatch.setattr(storage, "download", meanwhile)
    cache.opened(first, len(CONTENT), DIGEST).close()
    assert len(list(cache.folder().glob("*.tar"))) == 2
    cache.opened(before, len(CONTENT), DIGEST).close()
    assert remote.downloads == 4, "it had to go"


def test_what_a_killed_download_left_takes_no_room(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPLOOM_CACHE_GB", str(2.5 * len(CONTENT) / 2**30))
    cache.folder().mkdir(parents=True)
    (cache.folder() / "left.download").write_bytes(CONTENT * 2)
    for i in range(2):
        cache.opened(remote.put(f"{i}.tar"), len(CONTENT), DIGEST).close()
    assert len(list(cache.folder().glob("*.tar"))) == 2
    assert not list(cache.folder().glob("*.download"))


def test_a_full_disk_is_said_in_one_line(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(uri: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "download", full)
    with pytest.raises(StorageError, match=r"cache has no room for s3://b/0\.tar: free some, or lower CLIPLOOM_CACHE"):
        cache.opened(remote.put("0.tar"), len(CONTENT), DIGEST)
