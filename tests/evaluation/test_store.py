from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from cliploom.evaluation.store import Features, FeatureStore, concatenate


def _features(samples: int, owners: list[int], seed: int = 0) -> Features:
    random = np.random.default_rng(seed)
    return Features(
        keys=np.array([f"key {seed}-{n}" for n in range(samples)]),
        labels=np.array([f"{n}" for n in range(samples)]),
        causes=np.array(["", "no image", "x"][:samples]),
        images=random.normal(size=(samples, 2)).astype(np.float32),
        hidden=random.normal(size=(samples, 3)).astype(np.float32),
        thumbnails=random.integers(0, 256, (samples, 32, 32, 3), np.uint8),
        captions=np.array([f"snow ❄ {seed}-{n}" for n in range(len(owners))]),
        owners=np.array(owners, np.int64),
        texts=random.normal(size=(len(owners), 2)).astype(np.float32),
        seconds=np.array([0.5]),
    )


def test_features_come_back_as_they_were_kept(tmp_path: Path) -> None:
    features = _features(3, [0, 0, 2])
    store = FeatureStore(str(tmp_path), "sha256:1", "32px-fp32")
    assert "sha256:a" not in store
    store.save("sha256:a", features)
    again = FeatureStore(str(tmp_path), "sha256:1", "32px-fp32")
    assert "sha256:a" in again
    for field in fields(Features):
        np.testing.assert_array_equal(getattr(again.load("sha256:a"), field.name), getattr(features, field.name))


def test_another_model_or_preparation_has_features_of_its_own(tmp_path: Path) -> None:
    FeatureStore(str(tmp_path), "sha256:1", "32px-fp32").save("sha256:a", _features(1, []))
    assert "sha256:a" not in FeatureStore(str(tmp_path), "sha256:2", "32px-fp32")
    assert "sha256:a" not in FeatureStore(str(tmp_path), "sha256:1", "32px-bf16")


def test_parts_are_joined_as_if_they_were_one() -> None:
    whole = concatenate([_features(2, [0, 1, 1]), _features(3, [0, 2], seed=1)])
    assert len(whole) == 5
    assert whole.owners.tolist() == [0, 1, 1, 2, 4]
    assert whole.keys[whole.owners].tolist() == ["key 0-0", "key 0-1", "key 0-1", "key 1-0", "key 1-2"]
    assert whole.seconds.tolist() == [1.0]


def test_usable_keeps_samples_and_captions_together() -> None:
    features = replace(_features(3, [0, 0, 1, 2]), causes=np.array(["", "no image", ""]))
    usable = features.usable()
    assert usable.keys.tolist() == ["key 0-0", "key 0-2"]
    assert usable.keys[usable.owners].tolist() == ["key 0-0", "key 0-0", "key 0-2"]
    np.testing.assert_array_equal(usable.texts, features.texts[[0, 1, 3]])
    np.testing.assert_array_equal(usable.hidden, features.hidden[[0, 2]])
    np.testing.assert_array_equal(usable.thumbnails, features.thumbnails[[0, 2]])
