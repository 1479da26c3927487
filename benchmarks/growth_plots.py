"""Draws costs against sizes, both on logarithmic axes, as an SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

PANEL_WIDTH, HEIGHT = 4.0, 3.4
"""Size of a panel in inches."""

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "triform", "font.size": 9}
"""Text stays text, and the same points give the same file."""


@dataclass(frozen=True)
class Curve:
    """The points of one cost, and their name."""

    name: str
    sizes: Sequence[float]
    costs: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """Curves with the same axes. unit: of the costs."""

    title: str
    size: str
    unit: str
    curves: Sequence[Curve]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels, side by side, to `path`."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # Not the user's own settings.
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(PANEL_WIDTH * len(panels), HEIGHT), layout="constrained")
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for curve in panel.curves:
                axes.plot(curve.sizes, curve.costs, marker="o", markersize=3, label=curve.name)
            axes.set(
                xscale="log", yscale="log", title=panel.title, xlabel=panel.size, ylabel=panel.unit
            )
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
