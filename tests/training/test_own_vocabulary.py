"""A run with a vocabulary of its own, from its settings to the weights that it exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cliploom
import pairs
from cliploom import config as configs
from cliploom import models
from cliploom.data import vocabulary
from cliploom.data.corpus import Corpus
from cliploom.data.plan import WorkItem
from cliploom.data.reader import Reader
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.vocabulary import Vocabulary
from cliploom.errors import InputError
from cliploom.training.loop import save_weights
from cliploom.training.run import Run, plan_run

SIZE = 540


@pytest.fixture
def own(tmp_path: Path) -> Vocabulary:
    from cliploom.data import manifest

    made = vocabulary.train(Corpus(manifest.load(pairs.write(tmp_path / "shards", shards=2))), SIZE)
    (tmp_path / "own.bpe").write_bytes(made.pack())
    return made


def planned(folder: Path, **data: Any) -> Run:
    settings = {
        "run.name": "run",
        "run.storage": folder,
        "data.manifest": folder / "shards",
        "model.name": "ViT-mu-8-32",
        "train.global_batch_size": 8,
        "train.samples": 16,
        **{f"data.{key}": value for key, value in data.items()},
    }
    return plan_run(configs.load(None, [f"{key}={value}" for key, value in settings.items()]))


def test_the_model_and_the_batches_are_of_it(own: Vocabulary, tmp_path: Path) -> None:
    run = planned(tmp_path, vocabulary=tmp_path / "own.bpe")
    assert run.model.vocab_size == SIZE
    batch = Reader(run.stream.source).read(WorkItem(0, 0, 0, 0, 8, 8))
    captions = {tuple(row) for row in Tokenizer(vocabulary=own).encode_batch(list(all_captions(tmp_path)))}
    assert {tuple(row) for row in batch.tokens} <= captions
    assert (batch.tokens.max(axis=1) == SIZE - 1).all()


def all_captions(folder: Path) -> Corpus:
    from cliploom.data import manifest

    return Corpus(manifest.load(str(folder / "shards")))


def test_it_goes_with_the_exported_weights(own: Vocabulary, tmp_path: Path) -> None:
    run = planned(tmp_path, vocabulary=tmp_path / "own.bpe")
    save_weights(run, models.create(run.model, seed=0).state_dict())
    (tmp_path / "own.bpe").unlink()
    model, _, tokenize = cliploom.load(run.export)
    assert model.config == run.model
    assert tokenize("a red ellipse").equal(Tokenizer(vocabulary=own)("a red ellipse"))


def test_without_one_it_is_clip_s(own: Vocabulary, tmp_path: Path) -> None:
    run = planned(tmp_path)
    assert run.model.vocab_size == 49408
    batch = Reader(run.stream.source).read(WorkItem(0, 0, 0, 0, 8, 8))
    assert np.array_equal(batch.tokens.max(axis=1), [49407] * 8)
    save_weights(run, models.create(run.model, seed=0).state_dict())
    assert {file.name for file in Path(run.export).iterdir()} == {"weights.safetensors", "config.json"}


def test_a_run_knows_its_vocabulary_by_its_content(own: Vocabulary, tmp_path: Path) -> None:
    run = planned(tmp_path, vocabulary=tmp_path / "own.bpe")
    (tmp_path / "moved.gz").write_bytes(own.pack())
    assert planned(tmp_path, vocabulary=tmp_path / "moved.gz").settings == run.settings
    assert planned(tmp_path).settings["data.vocabulary"] != run.settings["data.vocabulary"]
    (tmp_path / "own.bpe").write_bytes(vocabulary.train(all_captions(tmp_path), SIZE - 1).pack())
    with pytest.raises(InputError, match=r"own\.bpe has changed since the run began"):
        Reader(run.stream.source)
    with pytest.raises(InputError, match=r"own\.bpe has changed since the run began"):
        save_weights(run, models.create(run.model, seed=0).state_dict())


def test_no_vocabulary_there(own: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no vocabulary file /no/such/file: make one with"):
        planned(tmp_path, vocabulary="/no/such/file")
