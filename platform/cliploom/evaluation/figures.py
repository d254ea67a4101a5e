"""Figures as SVG that stands in a page and takes its colours from the page's style, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cliploom.evaluation.run import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = {f"#0000{number:02x}": f"var(--series-{number})" for number in range(1, 7)} | {
    "#000010": "var(--ink)",
    "#000011": "var(--line)",
    "#000012": "var(--muted)",
}
_SERIES, _INK, _LINE, _MUTED = [*_STYLES][:6], "#000010", "#000011", "#000012"
_POINTS = 200  # of a curve


def hits_at_k(curves: Sequence[Curve]) -> str:
    """How many queries are answered rightly within the first k answers, beside chance; both axes logarithmic."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

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
        for colour, curve in zip(_SERIES * len(curves), curves, strict=False):
            k = np.unique(np.geomspace(1, curve.gallery, _POINTS).astype(int))
            share = np.searchsorted(np.sort(curve.ranks), k) / len(curve.ranks)
            axes.plot(k, share, color=colour, linewidth=2.2, label=curve.name)
            chance = 1 - (1 - k / curve.gallery) ** curve.right
            axes.plot(k, chance, color=colour, linewidth=1, dashes=(2, 3))
        axes.set(xscale="log", yscale="log", xlabel="answers looked at (k)", ylabel="right answer among them")
        ticks = [tick for tick in (0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1) if tick >= axes.get_ylim()[0]]
        axes.set_yticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(top=1.25)
        axes.set_xlim(left=0.93)
        axes.grid(linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0, which="both")
        axes.legend(loc="lower right", frameon=False, fontsize=11, handlelength=1.4)
        return _inline(figure)


def _inline(figure: Figure) -> str:
    data = io.StringIO()
    figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = data.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1; font-family: inherit", svg)
    return re.sub("|".join(_STYLES), lambda match: _STYLES[match[0]], svg)
