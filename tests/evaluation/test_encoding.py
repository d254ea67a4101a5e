from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import evaluation_sets as sets
from cliploom import models
from cliploom.data import vocabulary
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.transforms import Preprocess, evaluation_pixels
from cliploom.errors import InputError
from cliploom.evaluation import encoding, features
from cliploom.evaluation.datasets import Sample
from cliploom.evaluation.encoding import Encoder
from cliploom.evaluation.model import Model, digest, publish
from cliploom.evaluation.preparing import Batch, prepare_classes, prepare_samples
from cliploom.models import weights


def _prepared(samples: list[Sample], model: Model) -> Batch:
    with ThreadPoolExecutor(2) as threads:
        return prepare_samples(samples, model, threads)


@pytest.fixture(scope="module")
def encoder(model: Model) -> Encoder:
    return Encoder(model.uri)


def test_image_features_are_those_of_the_model_alone(encoder: Encoder, model: Model) -> None:
    pictures = [sets.picture(number) for number in range(3)]
    samples = [Sample(str(n), sets.encoded(picture), b"1\n", None) for n, picture in enumerate(pictures)]
    found = encoder.encode(_prepared(samples, model))
    with torch.inference_mode():
        images = torch.stack([Preprocess(model.image_size)(picture) for picture in pictures])
        expected = F.normalize(encoder.model.encode_image(images), dim=-1)
    torch.testing.assert_close(torch.from_numpy(found.images), expected, atol=1e-6, rtol=1e-5)
    hidden = found.hidden @ encoder.model.get_parameter("visual.proj").detach().numpy()
    np.testing.assert_allclose(F.normalize(torch.from_numpy(hidden), dim=-1), expected, atol=1e-6)
    assert found.hidden.shape == (3, encoder.model.config.vision_width)
    for picture, thumbnail in zip(pictures, found.thumbnails, strict=True):
        np.testing.assert_allclose(thumbnail.mean((0, 1)), np.asarray(picture).mean((0, 1)), atol=1)
    assert found.labels.tolist() == ["1"] * 3
    assert found.causes.tolist() == [""] * 3


def test_a_resnets_hidden_features_are_its_embeddings(tmp_path: Path) -> None:
    weights.save(models.create(models.preset("RN14-mu-64"), seed=0), tmp_path / "weights")
    model = publish(tmp_path / "weights", str(tmp_path / "published"), "rn")
    found = Encoder(model.uri).encode(_prepared([Sample("a", sets.encoded(sets.picture(0)), b"0", None)], model))
    np.testing.assert_allclose(found.hidden / np.linalg.norm(found.hidden), found.images, atol=1e-6)
    assert found.hidden.shape == (1, 32)


def test_prompt_ensemble_is_the_normalised_mean_of_normalised_embeddings(
    encoder: Encoder, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "TEXTS_AT_ONCE", 4)  # groups straddle lots, and lots are sorted by length
    names = ["cat", "a much longer name of a class with many words", "dog", "ox"]
    templates = ["{c}", "a photo of {c}, taken at night", "{c} and {c}"]
    found = encoder.encode(prepare_classes(names, templates, model))
    tokenize = Tokenizer()
    for name, row in zip(names, found.texts, strict=True):
        with torch.inference_mode():
            prompts = [template.replace("{c}", name) for template in templates]
            embedded = F.normalize(encoder.model.encode_text(tokenize(prompts)), dim=-1)
        expected = F.normalize(embedded.mean(0), dim=-1)
        torch.testing.assert_close(torch.from_numpy(row), expected, atol=1e-6, rtol=1e-5)
    assert found.captions.tolist() == names
    assert len(found) == 0


def test_texts_are_those_of_the_model_s_own_vocabulary(tmp_path: Path) -> None:
    own = vocabulary.train(["a photo of a cat", "a photo of a dog"] * 2, 520)
    weights.save(models.create(replace(models.preset("ViT-mu-8-32"), vocab_size=520), seed=0), tmp_path / "weights")
    (tmp_path / "weights" / vocabulary.NAME).write_bytes(own.pack())
    model = publish(tmp_path / "weights", str(tmp_path / "published"), "mu")
    expected = Tokenizer(vocabulary=own)(["a photo of a cat", "a photo of an ox"]).numpy()
    assert np.array_equal(prepare_classes(["a cat", "an ox"], ["a photo of {c}"], model).tokens, expected)
    sample = Sample("a", None, None, b"a photo of a cat\na photo of an ox")
    assert np.array_equal(_prepared([sample], model).tokens, expected)
    (tmp_path / "weights" / vocabulary.NAME).write_bytes(replace(own, merges=own.merges[::-1]).pack())
    with pytest.raises(InputError, match="damaged: line"):
        publish(tmp_path / "weights", str(tmp_path / "published"), "mu")
    other = replace(own, merges=(*own.merges[:-1], ("x", "y")))
    (tmp_path / "weights" / vocabulary.NAME).write_bytes(other.pack())
    again = publish(tmp_path / "weights", str(tmp_path / "published"), "mu")
    assert again.digest != model.digest, "features of other tokens would be taken for these"
    assert digest(again.uri) == again.digest


def test_samples_that_cannot_be_used_get_a_cause_and_harm_no_other(encoder: Encoder, model: Model) -> None:
    whole = sets.encoded(sets.picture(0))
    samples = [
        Sample("a", whole, b"0", None),
        Sample("b", None, b"0", None),
        Sample("c", whole[: len(whole) // 2], b"0", None),
        Sample("d", b"no image at all", b"0", None),
        Sample("e", whole, None, b"one caption\n\nanother\n"),
    ]
    found = encoder.encode(_prepared(samples, model))
    assert found.causes.tolist() == ["", "no image", "undecodable image", "undecodable image", ""]
    np.testing.assert_allclose(found.images[0], found.images[4], atol=1e-6)
    assert found.captions.tolist() == ["one caption", "another"]
    assert found.owners.tolist() == [4, 4]
    assert found.usable().keys.tolist() == ["a", "e"]
    assert found.usable().owners.tolist() == [1, 1]


def test_an_embedding_that_is_not_finite_is_a_cause(model: Model) -> None:
    encoder = Encoder(model.uri)
    encoder.model.get_parameter("visual.proj").data.fill_(float("nan"))
    sample = Sample("a", sets.encoded(sets.picture(0)), b"0", None)
    found = encoder.encode(_prepared([sample], model))
    assert found.causes.tolist() == ["features not finite"]


def _without(word: str, model: Model) -> Encoder:
    """An encoder of which texts with this word have no finite embeddings."""
    encoder = Encoder(model.uri)
    encoder.model.get_parameter("token_embedding.weight").data[Tokenizer()(word)[0, 1]] = float("nan")
    return encoder


def test_a_caption_whose_embedding_is_not_finite_is_a_cause_of_its_sample(model: Model) -> None:
    picture = sets.encoded(sets.picture(0))
    captions = {"a": b"a cat\na dog", "b": b"a cat"}
    samples = [Sample(key, picture, None, lines) for key, lines in captions.items()]
    samples.append(Sample("c", None, None, b"dog"))
    found = _without("dog", model).encode(_prepared(samples, model))
    assert found.causes.tolist() == ["features not finite", "", "no image"]
    assert np.isfinite(found.usable().texts).all()


def test_a_class_whose_embedding_is_not_finite_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="embedding of the class dog is not finite"):
        _without("dog", model).encode(prepare_classes(["cat", "dog"], ["a {c}", "{c}"], model))


def test_what_the_model_refuses_goes_on_as_a_value(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would wrap it in an exception of its own, which no job takes for the user's."""
    monkeypatch.setattr(encoding, "Encoder", lambda *_: _without("dog", model))
    actor = features._Actor(model.uri, features.Compute("cpu", "fp32", torch.get_num_threads()))
    piece = features.Piece(0, 3, True, prepare_classes(["dog"], ["{c}"], model))
    found = actor({"piece": piece})["piece"]
    assert isinstance(found.content, InputError)
    assert replace(found, content=None) == replace(piece, content=None)


def test_the_digest_tells_activations_apart(model: Model, tmp_path: Path) -> None:
    """By it features are kept, and embeddings are known to be of the model that takes the query."""
    state, config = Encoder(model.uri).model.state_dict(), models.preset("ViT-mu-8-32")
    digests = set()
    for activation in ("quick_gelu", "gelu"):
        weights.save_state(state, replace(config, activation=activation), tmp_path / activation)
        other = publish(tmp_path / activation, str(tmp_path / "published"), "mu")
        assert digest(other.uri) == other.digest
        digests.add(other.digest)
    assert len(digests) == 2
    assert model.digest in digests


def test_frames_of_a_video_are_averaged_as_prompts_are(encoder: Encoder, model: Model) -> None:
    pictures = [sets.picture(number) for number in range(6)]
    alone = encoder.encode(
        _prepared([Sample(str(n), sets.encoded(picture), b"1", None) for n, picture in enumerate(pictures)], model)
    )
    pixels = np.stack([evaluation_pixels(picture, model.image_size) for picture in pictures])
    none = prepare_classes([], ["{c}"], model)
    batch = replace(
        none,
        keys=["a", "b"],
        labels=["0", "1"],
        causes=["", ""],
        pixels=pixels,
        frames=3,
        thumbnails=alone.thumbnails[:2],
    )
    found = encoder.encode(batch)
    np.testing.assert_allclose(found.hidden, alone.hidden.reshape(2, 3, -1).mean(1), atol=1e-5)
    mean = alone.images.reshape(2, 3, -1).mean(1)
    np.testing.assert_allclose(found.images, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


def test_captions_are_put_into_the_prompt(model: Model) -> None:
    sample = Sample("a", sets.encoded(sets.picture(0)), None, b"a dog\ntwo cats")
    with ThreadPoolExecutor(1) as threads:
        batch = prepare_samples([sample], model, threads, prompt="a photo of {c}")
    assert batch.captions == ["a dog", "two cats"]
    assert np.array_equal(batch.tokens, Tokenizer()(["a photo of a dog", "a photo of two cats"]).numpy())


def test_bf16_is_near_fp32(encoder: Encoder, model: Model) -> None:
    batch = _prepared([Sample("a", sets.encoded(sets.picture(0)), None, b"a red picture")], model)
    exact, rounded = encoder.encode(batch), Encoder(model.uri, precision="bf16").encode(batch)
    assert rounded.images.dtype == np.float32
    assert (exact.images * rounded.images).sum() == pytest.approx(1, abs=1e-3)
    assert (exact.texts * rounded.texts).sum() == pytest.approx(1, abs=1e-3)
    assert not np.array_equal(exact.images, rounded.images)
