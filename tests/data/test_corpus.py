from __future__ import annotations

from pathlib import Path

import pairs
import servers
from cliploom.data import manifest, vocabulary
from cliploom.data.corpus import Corpus
from cliploom.data.shards import ShardWriter


def test_all_captions_in_order(tmp_path: Path) -> None:
    corpus = Corpus(manifest.load(pairs.write(tmp_path, shards=2, samples=3, several=True)))
    assert list(corpus)[:4] == ["a red ellipse", "ellipse, red", "a red rectangle", "rectangle, red"]
    assert corpus.captions == 12
    assert not corpus.faults


def test_the_job_makes_a_vocabulary_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "0.tar")) as writer:
        for number, caption in enumerate(["a red square", "a red circle", "xx"] * 3):
            writer.add(str(number), b"no picture: it is not read", "png", [caption])
    path = tmp_path / "0.tar"
    path.write_bytes(path.read_bytes().replace(b"xx", b"x\xff", 1))
    data = manifest.write(str(tmp_path / "manifest.parquet"), [(writer.shard, writer.index)]).uri
    settings = [f"data.manifest={data}", "vocabulary.size=525", f"vocabulary.output={tmp_path}/own.bpe"]
    found = servers.run_job("vocabulary", *settings)
    assert found.returncode == 0, found.stderr
    assert f"525 token ids of 8 captions: {tmp_path}/own.bpe" in found.stdout
    assert "left out: 1 x caption is not UTF-8 text" in found.stdout
    expected = vocabulary.train([*["a red square", "a red circle"] * 3, "xx", "xx"], 525)
    assert vocabulary.load(f"{tmp_path}/own.bpe") == expected
    found = servers.run_job("vocabulary", *settings[:2], "vocabulary.output=/proc/nowhere/own.gz")
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "vocabulary.output: /proc/nowhere can't be written to" in found.stderr
