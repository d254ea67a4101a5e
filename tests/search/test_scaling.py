"""The grid of a scaling search, its manifests, and the findings of its points."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import pairs
from cliploom import config
from cliploom.data import manifest
from cliploom.errors import InputError
from cliploom.search import run as searches
from cliploom.search import scaling
from cliploom.search.points import Point


def searched(tmp_path: Path, **scale: Any) -> searches.Search:
    shards = pairs.write(tmp_path / "pairs", shards=5, samples=20)
    base = config.load(
        None,
        [
            "run.name=grid",
            f"run.storage={tmp_path}",
            f"data.manifest={shards}",
            "model.name=ViT-mu-8-32",
            "train.global_batch_size=16",
            "tune.kind=scale",
            "tune.held_out_shards=1",
        ],
    )
    return searches.plan(config.replaced(base, {f"tune.scale.{key}": value for key, value in scale.items()}))


def test_the_grid_is_every_model_with_every_budget_and_seeds_of_the_cheapest(tmp_path: Path) -> None:
    search = searched(tmp_path, factors=[1, 4], samples=[32, 64], data=[0.5, 1.0], seeds=3)
    assert not callable(search.proposals)
    assert search.total == 2 * 2 * 2 + 2
    cheapest, *others = search.proposals
    assert cheapest["train.samples"] == 32
    assert cheapest["model.factor"] == 1
    assert [row.get("train.seed") for row in others[-2:]] == [1, 2]
    sizes = {str(row["data.manifest"]): len(manifest.load(str(row["data.manifest"])).shards) for row in others}
    assert sorted(sizes.values()) == [2, 4]


def test_held_out_shards_are_in_no_trials_data(tmp_path: Path) -> None:
    search = searched(tmp_path, factors=[1], samples=[32], data=[0.25, 1.0])
    held_out = {shard.uri for shard in manifest.load(search.training.held_out).shards}
    assert len(held_out) == 1
    assert not callable(search.proposals)
    parts = [{shard.uri for shard in manifest.load(str(row["data.manifest"])).shards} for row in search.proposals]
    small, large = sorted(parts, key=len)
    assert small < large
    assert not large & held_out


def test_matched_compute_gives_larger_models_fewer_samples(tmp_path: Path) -> None:
    search = searched(tmp_path, factors=[1, 4], flops=[3e9])
    assert not callable(search.proposals)
    rows = {float(row["model.factor"]): int(row["train.samples"]) for row in search.proposals}
    assert rows[1] > rows[4]
    used = [scaling._sample_flops(search.training, row) * float(row["train.samples"]) for row in search.proposals]
    assert used == pytest.approx([3e9, 3e9], rel=0.1)


def test_each_size_gets_the_learning_rate_that_is_carried_to_it(tmp_path: Path) -> None:
    search = searched(tmp_path, factors=[1, 8], samples=[32, 64])
    assert not callable(search.proposals)
    given = search.training.config.train.learning_rate
    rates = {float(row["model.factor"]): float(row["train.learning_rate"]) for row in search.proposals}
    assert rates[1] == given
    assert rates[8] == pytest.approx(given * 8**-0.087, rel=0.02)  # 43.6 times the compute take it to 3.6 / 5


def test_what_makes_no_search_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tune\.scale\.samples or tune\.scale\.flops"):
        searched(tmp_path / "a", factors=[1])
    with pytest.raises(InputError, match="compute"):
        searched(tmp_path / "b", factors=[1e-9], samples=[32])


def test_findings_say_what_the_points_leave_open() -> None:
    points = [Point(f"p{n}", "M x 1", 1.0, 10**6, 1e6, 1000 * 2**n, 1000, 3.0 * 0.9**n) for n in range(4)]
    points.append(Point("again", "M x 1", 1.0, 10**6, 1e6, 1000, 1000, 3.1, 1))
    found = scaling.summarize(config.load(None, ["tune.scale.for_flops=1e12"]), points)
    assert found["laws"]["joint"] == "not identifiable: too few points"
    assert str(found["recommendation"]).startswith("not identifiable")
    assert [row["name"] for row in found["held_out"]] == ["p3"]
    assert found["seeds"][0]["names"] == ["p0", "again"]


def test_a_recommended_model_comes_with_the_learning_rate_that_is_carried_to_it() -> None:
    points = [
        Point(f"{n}-{d}", f"M x {n}", n, n * 10**6, 6e6 * n, d, 10**8, 0.2 + 50 * (n * 1e6) ** -0.4 + 200 * d**-0.35)
        for n in (1, 4, 16)
        for d in (10**6, 4 * 10**6, 16 * 10**6)
    ]
    asked = ["tune.scale.for_flops=1e17", "train.learning_rate=1e-3"]
    found = scaling.summarize(config.load(None, asked), points)["recommendation"]
    assert found["factor"] > 1
    assert found["learning_rate"] == pytest.approx(1e-3 * found["factor"] ** -0.087, rel=0.02)


def test_findings_are_json_where_as_many_points_as_parameters_leave_intervals_open(tmp_path: Path) -> None:
    points = [Point(f"p{n}", "M x 1", 1.0, 10**6, 1e6, 1000 * 2**n, 1000, 3.0 * 0.9**n) for n in range(3)]
    found = scaling.summarize(config.load(None, []), points)
    law = found["laws"]["compute"]
    assert (law["points"], law["spread"]) == (2, None)
    assert law["parameters"]["b"] == {"value": pytest.approx(-math.log2(0.9)), "low": None, "high": None}
    assert found["held_out"] == [{"name": "p2", "measured": points[2].error}]
    search = searched(tmp_path, factors=[1], samples=[32])
    searches.write(search, found)
    with pytest.raises(ValueError, match="JSON"):
        searches.write(search, {"spread": math.nan})


def test_gpu_hours_are_compute_at_a_stated_rate() -> None:
    asked = ["tune.scale.for_gpu_hours=2"]
    assert scaling.target_flops(config.load(None, [*asked, "cost.flops_per_second=1e14"])) == 7.2e17
    with pytest.raises(InputError, match=r"give cost\.flops_per_second"):
        scaling.target_flops(config.load(None, asked))
