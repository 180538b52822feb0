"""What was measured at each size, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from benchmarks.scale.measure import Figures

_COLOURS = {"directory": "#2563a8", "redis": "#c2570c", "postgres": "#3f7d4e"}
_TITLES = {
    "first_answer": "seconds from start to the first answer",
    "memory": "MB of memory after that",
    "cold": "ms for a name that isn't in memory",
    "renewal": "ms of CPU per renewal",
}


def draw(rows: Mapping[tuple[str, int], Figures], path: Path) -> None:
    """Write the figure as SVG."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "scale", "font.family": "sans-serif", "font.size": 9})
    figure, panels = plt.subplots(2, 2, figsize=(8, 5.4), sharex=True, layout="constrained")
    assert {*_TITLES} <= {field.name for field in fields(Figures)}
    for axes, (what, title) in zip(panels.flat, _TITLES.items(), strict=True):
        for kind, colour in _COLOURS.items():
            sizes = sorted(size for known, size in rows if known == kind)
            values = [getattr(rows[kind, size], what) for size in sizes]
            axes.plot(sizes, values, color=colour, marker="o", ms=3, lw=1.2, label=kind)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left", fontsize=9)
        axes.grid(axis="y", color="#e5e7eb", lw=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
    for axes in panels[1]:
        axes.set_xlabel("certificates stored")
    panels[0][0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
