"""Plots of what searches found, as SVG files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cliploom.search import frontier
from cliploom.search.frontier import Fits
from cliploom.search.laws import Law
from cliploom.search.methods import Curve
from cliploom.search.points import Point, held_out
from cliploom.search.records import LOSS, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GRID = 60  # points of a drawn law
_REACH = 3.0  # that a law is drawn beyond the last point


def trials(found: Sequence[Trial]) -> bytes:
    """A line a trial: held-out loss by samples; the best is thick."""

    def draw(axes: Axes) -> None:
        ended = [trial for trial in found if trial.points]
        best = min((t for t in ended if t.status == "finished"), key=lambda t: t.points[-1][LOSS], default=None)
        for trial in ended:
            x, y = zip(*((point["samples"], point[LOSS]) for point in trial.points), strict=True)
            chosen = trial is best
            axes.plot(x, y, marker="o", linewidth=2.5 if chosen else 1, color=None if chosen else "0.6", label=None)
        axes.set(xlabel="samples", ylabel="held-out loss")

    return _figure(draw)


def scaling(points: Sequence[Point], fits: Fits) -> bytes:
    """Error against compute, a colour a model: frontier, laws with their intervals, and the points held out of them."""

    def draw(axes: Axes) -> None:
        fitted, checked = held_out(points)
        for model in dict.fromkeys(point.model for point in points):
            own = [point for point in fitted if point.model == model]
            axes.plot([p.flops for p in own], [p.error for p in own], "o", label=model)
        less = [point for point in points if point not in fitted and point not in checked]
        if less:
            axes.plot([p.flops for p in less], [p.error for p in less], ".", color="0.6", label="on less data")
        axes.plot([p.flops for p in checked], [p.error for p in checked], "k*", markersize=11, label="held out")
        best = frontier.frontier(fitted)
        axes.plot([p.flops for p in best], [p.error for p in best], color="0.7", linewidth=1, zorder=0)
        for law, style, label in ((fits.compute, "-", "power law"), (fits.compute_floor, "--", "with a floor")):
            if law and law.freedom > 0:
                _law(axes, law, [p.flops for p in points], style, label)
        axes.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel="held-out loss")
        axes.legend(frameon=False, fontsize=8)

    return _figure(draw)


def methods(curves: Sequence[Curve]) -> bytes:
    """Zero-shot accuracy by images seen, a line an objective: the paper's figure 2."""

    def draw(axes: Axes) -> None:
        for curve in curves:
            axes.plot(curve.images, [100 * value for value in curve.accuracy], marker="o", label=curve.name)
        axes.set(xscale="log", xlabel="images seen", ylabel="zero-shot top 1, %")
        axes.legend(frameon=False, fontsize=9)

    return _figure(draw)


def _law(axes: Axes, law: Law, flops: Sequence[float], style: str, label: str) -> None:
    grid = np.geomspace(min(flops), _REACH * max(flops), _GRID)
    found = [law.at(float(x)) for x in grid]
    [line] = axes.plot(grid, [one.value for one in found], style, linewidth=1.4, label=label)
    band = ([one.low for one in found], [one.high for one in found])
    axes.fill_between(grid, *band, color=line.get_color(), alpha=0.12, linewidth=0)


def _figure(draw: Callable[[Axes], None]) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "cliploom", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()
