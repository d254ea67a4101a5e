"""Plots hold what they should, and are the same for the same data."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from cliploom.search import plots
from cliploom.search.frontier import fit_all
from cliploom.search.methods import Curve
from cliploom.search.points import Point, held_out
from cliploom.search.records import LOSS, Trial

POINTS = [
    Point(f"{n}-{d}", f"M x {n}", n, n * 10**6, n * 6e6, d, 16000, 3 * n**-0.2 * d**-0.1)
    for n in (1, 4)
    for d in (1000, 4000, 16000)
]


def words(svg: bytes) -> set[str]:
    """The texts of an SVG, which is well-formed."""
    return {
        "".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")
    }


def test_scaling_shows_every_model_the_law_and_the_point_held_out() -> None:
    fits = fit_all(held_out(POINTS)[0])
    svg = plots.scaling(POINTS, fits)
    assert {"M x 1", "M x 4", "held out", "power law", "training FLOPs"} <= words(svg)
    assert plots.scaling(POINTS, fits) == svg
    assert "on less data" in words(plots.scaling([*POINTS, replace(POINTS[0], data=4000)], fits)) - words(svg)


def test_methods_are_named() -> None:
    curves = [Curve("captioning", (10, 100), (0.01, 0.02)), Curve("contrastive", (10, 100), (0.02, 0.2))]
    assert {"captioning", "contrastive", "images seen"} <= words(plots.methods(curves))


def test_trials_that_were_never_measured_are_left_out() -> None:
    points = [{"samples": 10 * n, LOSS: 1 / n} for n in (1, 2, 3)]
    found = [
        Trial(0, {}, points, "finished", ""),
        Trial(1, {}, points[:2], "stopped", ""),
        Trial(2, {}, [], "failed", "no memory"),
    ]
    assert {"samples", "held-out loss"} <= words(plots.trials(found))
