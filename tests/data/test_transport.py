"""Faults on the way to S3, done to a real server's answers: they are waited out, or stop the work; no batch changes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import pairs
import proxy
from cliploom import config, retrying, storage
from cliploom.data import cache, manifest, mixture, shards, sources, vocabulary
from cliploom.data.indexing import make_index
from cliploom.data.plan import WorkItem
from cliploom.data.reader import Reader, Source
from cliploom.data.vocabulary import clip
from cliploom.errors import CredentialsError, InputError, TransportError
from cliploom.s3 import client
from cliploom.settings.data import Prepare
from cliploom.training import ngrams
from preparing import serially

pytestmark = pytest.mark.integration
FAULTS: tuple[proxy.Fault, ...] = ("reset", "silence", "cut", "busy")


@pytest.fixture
def bucket(s3: Callable[[], str]) -> str:
    """URI of a bucket whose volumes are there; the server makes them at the first object, and not at once."""
    uri = s3()
    storage.write(f"{uri}/first", b"here")
    return uri


@pytest.fixture
def way(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[proxy.Proxy]:
    """The way to the server, which from now on goes through a proxy, with little patience and pauses of no length."""
    with proxy.before(os.environ["AWS_ENDPOINT_URL"]) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        monkeypatch.setenv("CLIPLOOM_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("cliploom.s3._PATIENCE", (1, 0.3, 1))
        monkeypatch.setattr(retrying, "_FIRST_PAUSE", 0.01)
        client.cache_clear()
        storage.files(bucket)  # the client is made
        yield found
    client.cache_clear()


def once(fault: proxy.Fault, verb: str) -> Callable[[str, int], proxy.Fault | None]:
    """The fault, on the first request of a kind."""
    left = [fault]
    return lambda line, number: left.pop() if left and line.startswith(verb) else None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_waited_out(bucket: str, way: proxy.Proxy, fault: proxy.Fault, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    uri, copy, here = f"{bucket}/folder/file", tmp_path / "copy", tmp_path / "here"
    here.write_bytes(data)
    calls: list[tuple[str, Callable[[], object], object]] = [
        ("PUT", lambda: storage.write(uri, data), None),
        ("PUT", lambda: storage.upload(here, uri), None),
        ("HEAD", lambda: storage.size(uri), len(data)),
        ("GET", lambda: storage.read(uri), data),
        ("GET", lambda: storage.opened(uri, len(data)).read(1000), data[:1000]),
        ("GET", lambda: storage.download(uri, copy), None),
        ("GET", lambda: storage.files(f"{bucket}/folder"), [storage.File(uri, len(data))]),
    ]
    for verb, call, expected in calls:
        if fault == "cut" and verb != "GET":  # other answers have no body
            call()
            continue
        way.requests.clear()
        way.fault = once(fault, verb)
        assert call() == expected
        assert sum(line.startswith(verb) for line in way.requests) == 2
    assert copy.read_bytes() == data


@pytest.mark.parametrize("fault", ["reset", "busy"])
def test_a_fault_that_stays_ends_in_one_line_after_a_bounded_time(
    bucket: str, way: proxy.Proxy, fault: proxy.Fault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLIPLOOM_RETRY_SECONDS", "0.3")
    way.fault = lambda line, number: fault
    for call in (
        lambda: storage.read(f"{bucket}/file"),
        lambda: storage.size(f"{bucket}/file"),
        lambda: storage.download(f"{bucket}/file", tmp_path / "copy"),
        lambda: storage.write(f"{bucket}/file", b"data"),
    ):
        way.requests.clear()
        with pytest.raises(TransportError, match=r"^s3://[^\n]+/file: [^\n]+$"):
            call()
        assert len(way.requests) > 2
    assert not (tmp_path / "copy").exists()


def test_a_fault_that_stays_is_not_taken_for_wrong_input(
    bucket: str, way: proxy.Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run would be given up for that, where a fault on the way ends one attempt."""
    monkeypatch.setenv("CLIPLOOM_RETRY_SECONDS", "0.1")
    own = pairs.write(tmp_path, shards=1, samples=1)
    settings = config.Config.model_validate(
        {
            "index": {"shards": bucket, "output": str(tmp_path)},
            "objective": {"name": "ngrams", "ngrams": f"{bucket}/file"},
        }
    )
    way.fault = lambda line, number: "reset"
    calls: list[Callable[[], object]] = [
        lambda: manifest.load(bucket),
        lambda: manifest.load(f"{bucket}/0.tar"),
        lambda: vocabulary.load(f"{bucket}/own.bpe"),
        lambda: ngrams.read(settings, 100),
        lambda: mixture.choose(config.Data(manifest=own, deny=f"{bucket}/list")),
        lambda: mixture.choose(config.Data(manifest=own, deny=f"{bucket}/list.parquet")),
        lambda: list(sources.rows(Prepare(source=f"{bucket}/table.csv"))),
        lambda: list(sources.rows(Prepare(source=f"{bucket}/folder"))),
        lambda: make_index(settings, serially),
    ]
    for call in calls:
        with pytest.raises(TransportError):
            call()


def test_expired_credentials_stop_at_once_with_the_mend(bucket: str, way: proxy.Proxy, tmp_path: Path) -> None:
    way.fault = lambda line, number: "expired"
    for call in (
        lambda: storage.read(f"{bucket}/file"),
        lambda: storage.download(f"{bucket}/file", tmp_path / "copy"),
        lambda: storage.write(f"{bucket}/file", b"data"),
    ):
        way.requests.clear()
        with pytest.raises(CredentialsError, match=r"^s3://[^\n]+/file: [^\n]*expired[^\n]*renew them") as caught:
            call()
        assert isinstance(caught.value, InputError)
        assert len(way.requests) <= 2, "botocore asks for the bucket as well where HEAD is refused"


def source(uri: str) -> Source:
    made = mixture.choose(config.Data(manifest=uri))
    return Source(made.recipe, made.fingerprint, 3, 2, 8, (0.5, 1.0), None, clip().digest)


def test_faults_of_transport_change_no_batch(bucket: str, way: proxy.Proxy, tmp_path: Path) -> None:
    """Every third request goes wrong, in each way in turn; the shards come as they are on disk."""
    local = tmp_path / "pairs"
    uri = pairs.write(local, shards=3, samples=8)
    for path in sorted(local.iterdir()):
        storage.upload(path, f"{bucket}/pairs/{path.name}")
    here, there = Reader(source(uri)), Reader(source(f"{bucket}/pairs"))
    turn = iter(FAULTS * 100)
    way.fault = lambda line, number: next(turn) if number % 3 == 0 else None
    for start in range(0, 24, 6):
        item = WorkItem(0, 0, 0, start, start + 6, 6)
        expected, found = here.read(item), there.read(item)
        assert not found.faults
        for name in ("pixels", "tokens", "samples"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_a_shard_that_vanishes_or_changes_stops_the_work_and_is_named(
    bucket: str, way: proxy.Proxy, tmp_path: Path
) -> None:
    uri = pairs.write(tmp_path / "pairs", shards=2, samples=4)
    for path in sorted((tmp_path / "pairs").iterdir()):
        storage.upload(path, f"{bucket}/pairs/{path.name}")
    made = mixture.choose(config.Data(manifest=f"{bucket}/pairs"))
    first, second = made.shards
    storage.delete(first.uri)
    changed = bytearray((Path(uri).parent / "00001.tar").read_bytes())
    changed[600] ^= 1
    storage.write(second.uri, bytes(changed))
    with pytest.raises(InputError, match=r"00000\.tar is gone"):
        cache.opened(first.uri, first.bytes, first.digest)
    with pytest.raises(InputError, match=r"00001\.tar has changed since its manifest was made"):
        cache.opened(second.uri, second.bytes, second.digest)


def test_a_shard_known_by_its_headers_is_checked_by_them(bucket: str, way: proxy.Proxy, tmp_path: Path) -> None:
    pairs.write(tmp_path, shards=1, samples=4)
    tar = (tmp_path / "00000.tar").read_bytes()
    storage.write(f"{bucket}/0.tar", tar)
    shard, _, _ = shards.index_shard(f"{bucket}/0.tar")
    cache.opened(shard.uri, shard.bytes, shard.digest).close()
    for path in cache.folder().glob("*.tar"):
        path.unlink()
    storage.write(f"{bucket}/0.tar", tar.replace(b"000000001.txt", b"000000009.txt"))
    with pytest.raises(InputError, match=r"0\.tar has changed since its manifest was made"):
        cache.opened(shard.uri, shard.bytes, shard.digest)


def test_many_who_need_a_shard_at_once_fetch_it_once(bucket: str, way: proxy.Proxy) -> None:
    data = b"shard" * 1000
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    storage.write(f"{bucket}/0.tar", data)
    way.requests.clear()
    way.fault = once("busy", "GET")
    threads = [threading.Thread(target=lambda: cache.opened(f"{bucket}/0.tar", 5000, digest).close()) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([line for line in way.requests if line.startswith("GET")]) == 2
