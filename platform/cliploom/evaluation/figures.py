"""Figures as SVG that stands in a page and takes its colours from the page's style, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cliploom.evaluation.analyses import Comparison, Worth
from cliploom.evaluation.findings import Curve
from cliploom.evaluation.robustness import Shift

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = {f"#0000{number:02x}": f"var(--series-{number})" for number in range(1, 7)} | {
    "#000010": "var(--ink)",
    "#000011": "var(--line)",
    "#000012": "var(--muted)",
}
_SERIES, _INK, _LINE, _MUTED = [*_STYLES][:6], "#000010", "#000011", "#000012"
_POINTS = 200  # of a curve
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 11, "handlelength": 1.4}


def hits_at_k(curves: Sequence[Curve]) -> str:
    """How many queries are answered rightly within the first k answers, beside chance; both axes logarithmic."""

    def draw(axes: Axes) -> None:
        for colour, curve in zip(_SERIES * len(curves), curves, strict=False):
            k = np.unique(np.geomspace(1, curve.gallery, _POINTS).astype(int))
            found = np.searchsorted(np.sort(curve.ranks), k) / len(curve.ranks)
            axes.plot(k, found, color=colour, linewidth=2.2, label=curve.name)
            chance = 1 - (1 - k / curve.gallery) ** curve.right
            axes.plot(k, chance, color=colour, linewidth=1, dashes=(2, 3))
        axes.set(xscale="log", yscale="log", xlabel="answers looked at (k)", ylabel="right answer among them")
        ticks = [tick for tick in (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1) if tick >= axes.get_ylim()[0]]
        axes.set_yticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
        axes.xaxis.set_major_formatter(lambda k, _: f"{k:,.0f}")
        axes.minorticks_off()
        axes.set_ylim(top=1.25)
        axes.set_xlim(left=0.93)
        axes.legend(loc="lower right", **_LEGEND)

    return _figure(draw)


def zeroshot_against_probe(found: Sequence[Comparison]) -> str:
    """A point a data set, and the diagonal on which zero-shot is as good as the probe."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1.2)
        axes.scatter([one.probe for one in found], [one.zeroshot for one in found], color=_SERIES[0], s=34, zorder=3)
        for one in found:
            axes.annotate(one.dataset, (one.probe, one.zeroshot), (5, 4), textcoords="offset points", fontsize=9)
        axes.set(xlabel="linear probe", ylabel="zero-shot", xlim=(0, 1), ylim=(0, 1))
        _percent(axes, "both")

    return _figure(draw)


def few_shot(found: Sequence[Worth]) -> str:
    """A line a data set over examples a class; dashed, what zero-shot reaches."""

    def draw(axes: Axes) -> None:
        for colour, one in zip(_SERIES * len(found), found, strict=False):
            examples = [shot.examples for shot in one.shots]
            values = [shot.estimate.value for shot in one.shots]
            spans = [(shot.estimate.low, shot.estimate.high) for shot in one.shots]
            axes.plot(examples, values, color=colour, linewidth=2.2, marker="o", markersize=5, label=one.dataset)
            axes.vlines(examples, *zip(*spans, strict=True), color=colour, linewidth=1)
            if one.zeroshot is not None:
                axes.axhline(one.zeroshot, color=colour, linewidth=1.2, dashes=(4, 3))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda examples, _: f"{examples:g}")
        axes.set(xlabel="labelled examples a class", ylabel="probe")
        axes.minorticks_off()
        _percent(axes, "y")
        axes.legend(loc="upper left", **_LEGEND)

    return _figure(draw)


def robustness(found: Sequence[Shift]) -> str:
    """A point a shift and classifier on logit axes, the reference models and their lines; the diagonal is no loss."""

    def draw(axes: Axes) -> None:
        grid = np.linspace(0.01, 0.99, _POINTS)
        axes.plot(grid, grid, color=_LINE, linewidth=1.2)
        names = list(dict.fromkeys(one.shift_name for one in found))
        colours = dict(zip(names, _SERIES * len(names), strict=False))
        for one in found:
            colour, marker = colours[one.shift_name], "*" if one.classifier == "zero-shot" else "s"
            label = f"{one.shift_name}, {one.classifier}"
            axes.plot(one.base.value, one.shift.value, color=colour, marker=marker, markersize=11, label=label, ls="")
            if one.line:
                axes.plot(grid, [one.line.expected(x) for x in grid], color=colour, linewidth=1.2, dashes=(4, 3))
                x, y = zip(*one.line.points, strict=True)
                axes.scatter(x, y, color=colour, s=12, alpha=0.6)
        axes.set(xscale="logit", yscale="logit", xlabel="on the data set, the shift's classes", ylabel="on the shift")
        values = [value for one in found for value in (one.base.value, one.shift.value)]
        low, high = (float(np.clip(edge, 0.01, 0.99)) for edge in (0.5 * min(values), (1 + max(values)) / 2))
        axes.set(xlim=(low, high), ylim=(low, high))
        ticks = [tick for tick in (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.97, 0.99) if low <= tick <= high]
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        axes.minorticks_off()
        _percent(axes, "both")
        axes.legend(loc="lower right", **_LEGEND)

    return _figure(draw)


def _percent(axes: Axes, which: str) -> None:
    for axis in [axis for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)) if which in (name, "both")]:
        axis.set_major_formatter(lambda share, _: f"{100 * share:g} %")


def _figure(draw: Callable[[Axes], None]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "cliploom",
        "font.size": 12,
        "text.color": _INK,
        "axes.labelcolor": _MUTED,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "axes.edgecolor": _LINE,
        "grid.color": _LINE,
    }
    with rc_context(style):
        figure = Figure(figsize=(6.6, 4.2), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0, which="both")
        return _inline(figure)


def _inline(figure: Figure) -> str:
    data = io.StringIO()
    figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = data.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1; font-family: inherit", svg)
    return re.sub("|".join(_STYLES), lambda match: _STYLES[match[0]], svg)
