"""What a simulation came to, drawn."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.simulation.scenario import Outcome

_INK, _MUTED, _GRID = "#1f2933", "#6b7280", "#e5e7eb"
_BLUE, _ORANGE = "#2563a8", "#c2570c"
_OUTAGE = "#f3e8d6"


def draw(outcome: Outcome, path: Path) -> None:
    """Write the figure as SVG."""
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "simulation",
            "font.family": "sans-serif",
            "font.size": 9,
            "path.simplify": True,
            "path.simplify_threshold": 0.5,
            "axes.edgecolor": _MUTED,
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "xtick.color": _MUTED,
            "ytick.color": _MUTED,
        }
    )
    figure, (issued, tokens, waiting, left) = plt.subplots(
        4, 1, figsize=(8, 7.6), sharex=True, height_ratios=(1.2, 1, 1.2, 1), layout="constrained"
    )
    days = [sample.day for sample in outcome.samples]
    per_day = len(days) / outcome.scenario.days
    issued.plot(days, [sample.issued * per_day / 1000 for sample in outcome.samples], color=_BLUE, lw=1.2)
    _label(issued, "certificates issued, thousands a day")
    tokens.plot(days, [sample.new_orders for sample in outcome.samples], color=_BLUE, lw=1.2)
    tokens.set_ylim(0, 315)
    tokens.set_yticks([0, 60, 300])
    _label(tokens, "new orders that the CA would take at once, of 300: renewals leave 60 to visitors")
    waiting.plot(days, [sample.revoked / 1000 for sample in outcome.samples], color=_ORANGE, lw=1.2)
    _label(waiting, "revoked certificates still in use, thousands (dead names aside)")
    left.plot(days, [sample.least for sample in outcome.samples], color=_BLUE, lw=1.2)
    left.set_ylim(0, 32)
    left.set_yticks([0, 10, 20, 30])
    left.set_xlabel("day")
    _label(left, "days that the certificate nearest to its end has left (dead names aside)")
    first, length = outcome.scenario.outage
    for axes in (issued, tokens, waiting, left):
        axes.axvspan(first, first + length, color=_OUTAGE, lw=0)
        axes.axvline(outcome.scenario.revoked_on, color=_ORANGE, lw=0.8, ls=(0, (3, 2)))
        axes.set_xlim(0, outcome.scenario.days)
    issued.annotate(
        "mass revocation, then two days without the CA",
        (first + length, 0.97),
        xycoords=issued.get_xaxis_transform(),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        color=_MUTED,
    )
    figure.savefig(path, metadata={"Date": None})


def _label(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9, color=_INK)
    axes.grid(axis="y", color=_GRID, lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    if axes.get_ylim()[0] < 0:
        axes.set_ylim(bottom=0)
