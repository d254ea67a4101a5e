"""A run of the objective ngrams, from the job that counts its dictionary to the weights that it exports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import pairs
import processes
import servers
from cliploom import config as configs
from cliploom import objectives
from cliploom.data import vocabulary
from cliploom.data.tokenizer import Tokenizer
from cliploom.errors import InputError
from cliploom.objectives import dictionary
from cliploom.objectives.ngrams import NGramPredictor
from cliploom.training.checkpoint import merge
from cliploom.training.engine import Engine
from cliploom.training.loop import save_weights
from cliploom.training.network import build
from cliploom.training.run import Run, plan_run

SIZE = vocabulary.clip().size


def planned(folder: Path, objective: str = "ngrams", **settings: object) -> Run:
    given = {
        "run.name": "run",
        "run.storage": folder,
        "data.manifest": folder / "shards",
        "model.name": "ViT-mu-8-32",
        "objective.name": objective,
        "train.global_batch_size": 8,
        "train.samples": 16,
        "train.precision": "fp32",
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    return plan_run(configs.load(None, [f"{key}={value}" for key, value in given.items()]))


def captions() -> Tensor:
    return Tokenizer()([f"a {colour} {shape}" for colour in pairs.COLOURS for shape in pairs.SHAPES])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pairs.write(tmp_path / "shards", shards=2)
    path = tmp_path / "own.safetensors"
    path.write_bytes(dictionary.pack(objectives.count_ngrams([captions()], SIZE, 100, 1), SIZE))
    return path


def test_the_job_counts_the_captions_of_a_manifest(tmp_path: Path) -> None:
    data = pairs.write(tmp_path / "shards", shards=4, samples=32)  # each caption four times
    output = tmp_path / "own.safetensors"
    settings = [f"data.manifest={data}", f"ngrams.output={output}", "ngrams.min_count=3", "ngrams.most=60"]
    found = servers.run_job("ngrams", *settings)
    assert found.returncode == 0, found.stderr
    expected = objectives.count_ngrams([captions()] * 4, SIZE, 60, 3)
    assert f"{len(expected)} n-grams of 128 captions: {output}" in found.stdout
    assert torch.equal(dictionary.unpack(output.read_bytes(), SIZE, "FILE"), expected)
    found = servers.run_job("ngrams", *settings, "ngrams.min_count=1000")
    assert found.returncode == 2
    assert "error: no n-gram occurs ngrams.min_count=1000 times" in found.stderr


def test_the_network_has_it_and_so_have_the_exported_weights(file: Path, tmp_path: Path) -> None:
    run = planned(tmp_path, objective__ngrams=file)
    network = build(run, None)
    assert isinstance(network, NGramPredictor)
    assert torch.equal(network.ngrams, dictionary.unpack(file.read_bytes(), SIZE, "FILE"))
    save_weights(run, network.state_dict())
    again = objectives.load(Path(run.export))
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_a_run_knows_its_dictionary_by_its_content(file: Path, tmp_path: Path) -> None:
    run = planned(tmp_path, objective__ngrams=file)
    moved = file.rename(tmp_path / "moved")
    assert planned(tmp_path, objective__ngrams=moved).settings == run.settings
    file.write_bytes(dictionary.pack(objectives.count_ngrams([captions()], SIZE, 99, 1), SIZE))
    assert planned(tmp_path, objective__ngrams=file).settings != run.settings
    with pytest.raises(InputError, match=r"own\.safetensors .* has changed since the run began"):
        build(run, None)


def test_a_wrong_dictionary_is_refused_before_anything_starts(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"objective\.ngrams is not set"):
        planned(tmp_path)
    with pytest.raises(InputError, match=r"there is no dictionary /no/such/file \(objective\.ngrams\): make one with"):
        planned(tmp_path, objective__ngrams="/no/such/file")
    own = tmp_path / "own.bpe"
    own.write_bytes(vocabulary.train(["red"] * 9, vocabulary.SMALLEST).pack())
    with pytest.raises(InputError, match=f"counts n-grams of {SIZE} token ids, the model has {vocabulary.SMALLEST}"):
        planned(tmp_path, objective__ngrams=file, data__vocabulary=own)


def restored(runs: list[Run]) -> list[bool]:
    """Whether an engine's state, buffers among it, makes the same network again, of each run."""
    return [_is_restored(run) for run in runs]


def _is_restored(run: Run) -> bool:
    first = Engine(build(run, None), run.config.train)
    state = merge([first.snapshot()])
    second = Engine(build(run, state), run.config.train)
    second.load_state(state, 0)
    weights, again = first.weights(), second.weights()
    return weights.keys() == again.keys() and all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.integration
def test_baselines_are_restored_from_an_engine_s_state(file: Path, tmp_path: Path) -> None:
    runs = [planned(tmp_path, name, objective__ngrams=file) for name in ("captioning", "bag_of_words", "ngrams")]
    assert processes.run(1, restored, runs) == [[True, True, True]]
