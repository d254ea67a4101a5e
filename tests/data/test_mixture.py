"""Mixtures and deny-lists, from the settings to the batches of a reader."""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairs
from cliploom import config
from cliploom.data import manifest, mixture
from cliploom.data.corpus import Corpus
from cliploom.data.mixture import Mixture
from cliploom.data.plan import Plan, WorkItem
from cliploom.data.reader import Reader, Source
from cliploom.data.shards import ShardWriter
from cliploom.data.vocabulary import clip
from cliploom.errors import InputError
from cliploom.settings.data import Mixed


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URIs of two manifests: 2 shards of 6 samples, 3 of 4. A key is shard and number: 00000 0003."""
    folder = tmp_path_factory.mktemp("sets")
    return pairs.write(folder / "a", shards=2, samples=6), pairs.write(folder / "b", shards=3, samples=4)


def choose(parts: object, deny: Path | str | None = None) -> Mixture:
    settings = {"manifest": parts, "deny": str(deny) if deny else None}
    return mixture.choose(config.Data.model_validate(settings))


def weighted(*parts: tuple[str, float]) -> list[dict[str, object]]:
    return [{"uri": uri, "weight": weight} for uri, weight in parts]


def deny(path: Path, entries: Iterable[str]) -> Path:
    path.write_text("\ufeff" + "".join(f"{entry}\n" for entry in entries))  # as some editors begin a file
    return path


def left_out(made: Mixture) -> set[str]:
    return {f"{made.shards[s].uri}#{made.index(s).keys[i]}" for s, indices in made.denied.items() for i in indices}


def test_a_manifest_alone_is_known_by_its_own_fingerprint(sets: tuple[str, str]) -> None:
    alone = choose(sets[0])
    assert alone.fingerprint == manifest.load(sets[0]).fingerprint
    assert choose(weighted((sets[0], 1))).fingerprint == alone.fingerprint


def test_the_fingerprint_is_of_manifests_order_weights_and_what_is_denied(
    sets: tuple[str, str], tmp_path: Path
) -> None:
    a, b = sets
    mixtures = [
        choose(a),
        choose(weighted((a, 2))),
        choose(weighted((a, 1), (b, 1))),
        choose(weighted((b, 1), (a, 1))),
        choose(weighted((a, 1), (b, 1.5))),
        choose(a, deny(tmp_path / "one", ["000000003"])),
        choose(a, deny(tmp_path / "two", ["000000003", "000000004"])),
    ]
    assert len({made.fingerprint for made in mixtures}) == len(mixtures)
    # The list's own spelling is nothing to a run, and neither is what is not in the data.
    same = choose(a, deny(tmp_path / "again", ["", " 000000004 ", "no such key", "000000003", "00000.tar#000000003"]))
    assert same.fingerprint == mixtures[-1].fingerprint
    assert choose(a, deny(tmp_path / "none", ["no such key"])).fingerprint == mixtures[0].fingerprint


def test_shards_are_counted_through_all_manifests(sets: tuple[str, str]) -> None:
    made = choose(weighted((sets[0], 1), (sets[1], 0.5)))
    parts = [manifest.load(uri) for uri in sets]
    assert made.shards == parts[0].shards + parts[1].shards
    for number in (4, 0, 2, 1, 3):
        part, own = (0, number) if number < 2 else (1, number - 2)
        assert made.index(number).keys == parts[part].index(own).keys
    made.check()
    assert Plan(made.parts(), seed=0, window_shards=2).samples == 12 + 6


def test_keys_are_denied_everywhere_or_in_one_shard(sets: tuple[str, str], tmp_path: Path) -> None:
    a, b = sets
    first, second = manifest.load(a).shards[0].uri, manifest.load(b).shards[0].uri
    entries = ["000000001", f"{second}#000000002", "00002.tar#000020000", "00001.tar#000000003", "elsewhere#000000003"]
    made = choose(weighted((a, 1), (b, 1)), deny(tmp_path / "deny.txt", entries))
    third = manifest.load(b).shards[2].uri
    expected = {f"{first}#000000001", f"{second}#000000001", f"{second}#000000002", f"{third}#000020000"}
    assert left_out(made) == expected
    keys = pa.array([*entries, None]).cast(pa.large_string())
    pq.write_table(pa.table({"key": keys, "why": ["x"] * (len(entries) + 1)}), tmp_path / "deny.parquet")
    assert left_out(choose(weighted((a, 1), (b, 1)), tmp_path / "deny.parquet")) == expected
    assert sum(part.shard_samples[0] for part in made.parts()) == 10  # shards are as they were


def test_names_of_shards_and_keys_may_have_the_mark_between_them(tmp_path: Path) -> None:
    folder = tmp_path / "run#1"
    with ShardWriter(str(folder / "0.tar")) as writer:
        for key in ("a", "b#c", "d"):
            writer.add(key, b"", "png", ["caption"])
    uri = manifest.write(str(folder / manifest.NAME), [(writer.shard, writer.index)]).uri
    assert left_out(choose(uri, deny(tmp_path / "deny", [f"{folder}/0.tar#a", "0.tar#b#c", "1#0.tar#d"]))) == {
        f"{folder}/0.tar#a",
        f"{folder}/0.tar#b#c",
    }


def test_other_processes_get_the_same_mixture(sets: tuple[str, str], tmp_path: Path) -> None:
    path = deny(tmp_path / "deny", ["000000001", "000020000"])
    made = choose(weighted((sets[0], 2), (sets[1], 0.5)), path)
    path.unlink()  # it was looked up once
    recipe = pickle.loads(pickle.dumps(made.recipe))
    assert hash(recipe) == hash(made.recipe)
    again = mixture.load(recipe)
    assert (again.fingerprint, again.denied, again.weights) == (made.fingerprint, made.denied, made.weights)


def test_batches_have_each_sample_by_its_weight_and_none_that_is_denied(sets: tuple[str, str], tmp_path: Path) -> None:
    path = deny(tmp_path / "deny", ["000000001", "000020000"])
    made = choose(weighted((sets[0], 2), (sets[1], 1)), path)
    vocabulary = clip()
    source = Source(made.recipe, made.fingerprint, 5, 2, 8, (0.9, 1.0), None, vocabulary.digest)
    reader = Reader(source)
    epoch = reader.plan.samples
    assert epoch == 2 * 11 + 10
    batches = [reader.read(WorkItem(0, 0, 0, start, start + 8, 8)) for start in range(0, epoch, 8)]
    counts = Counter((int(shard), int(index)) for batch in batches for _, shard, index in batch.samples)
    everything = {(s, i) for s, shard in enumerate(made.shards) for i in range(shard.samples)}
    denied = {(s, i) for s, indices in made.denied.items() for i in indices}
    assert counts == Counter({sample: 2 if sample[0] < 2 else 1 for sample in everything - denied})
    # Two visits of a sample are two augmentations.
    twice = np.concatenate([batch.samples for batch in batches])
    assert len(np.unique(twice, axis=0)) == epoch


def test_captions_of_denied_samples_are_not_read(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(4):
            writer.add(str(number), b"", "png", [f"caption {number}"])
    uri = manifest.write(str(tmp_path / "manifest.parquet"), [(writer.shard, writer.index)]).uri
    made = choose(weighted((uri, 1), (uri, 1)), deny(tmp_path / "deny", ["2"]))
    assert list(Corpus(made)) == ["caption 0", "caption 1", "caption 3"] * 2


def test_entries_that_name_nothing_are_warned_of(
    sets: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        choose(sets[0], deny(tmp_path / "deny", ["x", "y"]))
    assert "data.deny: 2 entries of" in caplog.text
    assert "leave out 0 samples, 2 entries name none" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        choose(sets[0], deny(tmp_path / "deny", ["x", "000000001"]))
    assert "leave out 1 samples, 1 entries name none" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        choose(weighted((sets[0], 1), (sets[1], 1)), deny(tmp_path / "deny", ["000020000", "000000001"]))
    assert not caplog.text, "each is in one of the manifests"


def test_what_is_wrong_is_said_in_one_line(sets: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"keys": ["a"]}), tmp_path / "other.parquet")
    for name, message in {
        "none": "data.deny: there is no file .*none",
        "none.parquet": r"data.deny: there is no file .*none\.parquet",
        "bytes": "data.deny: .*bytes is not UTF-8 text",
        "no.parquet": r"data.deny: .*no\.parquet is no parquet file",
        "other.parquet": r"data.deny: .*other\.parquet has no column key",
    }.items():
        with pytest.raises(InputError, match=message):
            choose(sets[0], tmp_path / name)
    everything = deny(tmp_path / "all", [f"0000{s}000{i}" for s in range(3) for i in range(6)])
    with pytest.raises(InputError, match=r"manifest\.parquet holds no samples, all are denied"):
        choose(sets[0], everything).parts()
    with pytest.raises(InputError, match=r"data\.manifest: weight 0\.01 of .* is less than one of its samples"):
        choose(weighted((sets[0], 1), (sets[1], 0.01))).parts()
    with pytest.raises(
        InputError, match=r"^data\.manifest: should be str\|\[\{uri: str, weight: float\}, \.\.\.\]\|none"
    ):
        config.load(None, ["data.manifest=[{uri: a, wieght: 2}]"])
    found = config.load(None, ["data.manifest=[{uri: a, weight: 2}, {uri: b}]"]).data.manifest
    assert found == [Mixed(uri="a", weight=2), Mixed(uri="b", weight=1)]
