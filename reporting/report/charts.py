"""Draws the curves of a run as inline SVG, with matplotlib, in the colours of the report page.

matplotlib draws with placeholder colours. Each one is replaced by a CSS variable of the page, so
that a chart follows light and dark mode. Text stays text, in the page's font.
"""

import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import IdentityTransform

from reporting.wording import count_text, number_text, percent_text

WIDTH, HEIGHT = 540, 260
"""Size of a chart in SVG units. The page scales the SVG."""

LEFT, TOP, BOTTOM = 56, 10, 230
RIGHT_OF_NAMES, RIGHT_OF_VALUES = 398, 456
"""Edges of the plot within the chart. The last values of the curves are written to the right of the
plot, with names (RIGHT_OF_NAMES) or without (RIGHT_OF_VALUES)."""

MOST_POINTS = 400
"""Maximum number of points drawn of a curve. A longer curve is cut into this many pieces, and each
piece is averaged."""

LOG_FROM = 20
"""A vertical axis is logarithmic if the largest value is at least this many times the smallest one.
The values must be positive. The lowest 2 % of the values are ignored."""

LABEL_HEIGHT = 16

_PAGE_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--grid)",
    "#040404": "var(--first)",
    "#050505": "var(--second)",
    "#060606": "var(--surface)",
}
INK, MUTED, GRID, FIRST, SECOND, SURFACE = _PAGE_COLOURS

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "triform",  # The same curves give the same file.
    "font.size": 12,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.linewidth": 1,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.ymargin": 0.08,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


@dataclass(frozen=True)
class Numbers:
    """Two formats for the values of a chart: `text` for labels, `tick` for the axis."""

    text: Callable[[float], str]
    tick: Callable[[float], str]


PLAIN = Numbers(number_text, "{:g}".format)
COUNTS = Numbers(count_text, count_text)
SHARES = Numbers(percent_text, lambda share: f"{100 * share:g} %")


@dataclass(frozen=True)
class Curve:
    """A curve of finite values at ascending steps.

    smooth: draw a running mean, and the curve itself paler.
    best: min or max, to mark the lowest or the highest value; None for no mark.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    colour: str = FIRST
    smooth: bool = False
    best: Callable[..., float] | None = None


@dataclass(frozen=True)
class End:
    """The last value of a curve, for its label."""

    value: float
    colour: str
    name: str


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    data: the values that reading.js shows for the step under the pointer.
    """

    title: str
    subtitle: str
    svg: str
    data: dict[str, Any]


def curve(metrics: Sequence[dict[str, Any]], key: str, name: str, **how: Any) -> Curve:
    """Make a curve of the finite values of `key` in lines of metrics.jsonl. how: further fields of
    `Curve`."""
    points = [(m["step"], m[key]) for m in metrics if math.isfinite(m.get(key, math.nan))]
    return Curve(name, [step for step, _ in points], [value for _, value in points], **how)


def draw(
    title: str,
    subtitle: str,
    curves: Sequence[Curve],
    numbers: Numbers,
    *,
    limits: tuple[float | None, float | None] | None = None,
    clip_beginning: bool = False,
    reference: tuple[str, float] | None = None,
) -> Chart | None:
    """Draw a chart of the `curves` that have values; return None if there are none.

    numbers: the formats of the values.
    limits: (low, high) of the vertical axis; a None in it is chosen to fit the values. Without
        limits the axis may be logarithmic.
    clip_beginning: allow the first steps to be above the chart, if they would flatten the rest; the
        subtitle then says so.
    reference: name and value of a line to compare with.
    """
    curves = [_thin(one) for one in curves if one.steps]
    if not curves:
        return None
    values = [value for one in curves for value in one.values]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # Not the user's own settings.
        matplotlib.rcParams.update(_STYLE)
        named = any(one.name for one in curves)
        figure, axes = _empty_axes(RIGHT_OF_NAMES if named else RIGHT_OF_VALUES)
        ends = [_draw_curve(axes, one) for one in curves]
        if reference is not None:
            axes.axhline(reference[1], color=MUTED, linewidth=1.5, dashes=(3, 3))
            ends.append(End(reference[1], MUTED, reference[0]))
        _set_steps(axes, curves)
        if limits is None and _spans_much(values):
            _make_logarithmic(axes)
        elif limits is not None:
            axes.set_ylim(*limits)
        elif clip_beginning and (top := _top_without_beginning(axes, curves, reference)):
            subtitle = f"{subtitle}; begins at {numbers.text(max(values))}, above the chart"
            axes.set_ylim(top=top)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.tick(value)))
        _label_ends(axes, ends, numbers)
        return Chart(title, subtitle, _svg(figure, title), _reading_data(axes, curves, numbers))


def _thin(curve: Curve) -> Curve:
    """Reduce a curve to at most MOST_POINTS points. Each is the mean of several neighbours, at the
    step of the last one."""
    count = len(curve.steps)
    if count <= MOST_POINTS:
        return curve
    cuts = [round(i * count / MOST_POINTS) for i in range(MOST_POINTS + 1)]
    pieces = [slice(begin, end) for begin, end in itertools.pairwise(cuts)]
    return replace(
        curve,
        steps=[curve.steps[piece][-1] for piece in pieces],
        values=[math.fsum(curve.values[piece]) / len(curve.values[piece]) for piece in pieces],
    )


def _empty_axes(right: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)  # A unit of the SVG is a pixel.
    width, height = (right - LEFT) / WIDTH, (BOTTOM - TOP) / HEIGHT
    axes = figure.add_axes((LEFT / WIDTH, (HEIGHT - BOTTOM) / HEIGHT, width, height))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    return figure, axes


def _set_steps(axes: Axes, curves: Sequence[Curve]) -> None:
    """Set up the horizontal axis."""
    first = min(one.steps[0] for one in curves)
    last = max(one.steps[-1] for one in curves)
    axes.set_xlim((first, last) if last > first else (first - 1, first + 1))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: count_text(step)))


def _spans_much(values: Sequence[float]) -> bool:
    ascending = sorted(values)
    low = ascending[len(values) // 50]  # Ignores a few steps that happen to be perfect.
    return low > 0 and ascending[-1] >= LOG_FROM * low


def _make_logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1.0,) if high > 500 * low else (1.0, 3.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())


def _top_without_beginning(
    axes: Axes, curves: Sequence[Curve], reference: tuple[str, float] | None
) -> float | None:
    """Return an upper limit for the axis that fits all steps but the first twentieth; None if it
    would change little."""
    first, last = axes.get_xlim()
    later = [
        value
        for one in curves
        for step, value in zip(one.steps, one.values, strict=True)
        if step >= first + (last - first) / 20
    ]
    low, high = axes.get_ylim()
    highest = max([*later, reference[1] if reference is not None else low])
    if len(later) < 20 or high - low < 2 * (highest - low):
        return None
    return highest + 0.05 * (highest - low)


def _draw_curve(axes: Axes, curve: Curve) -> End:
    few = len(curve.steps) <= 30
    shown = curve.values
    if curve.smooth and not few:
        axes.plot(curve.steps, curve.values, color=curve.colour, linewidth=1, alpha=0.3)
        shown = _running_mean(curve.values)
    size = 4 if len(shown) > 1 else 7
    marks: dict[str, Any] = {"marker": "o", "markersize": size, "clip_on": False}
    axes.plot(curve.steps, shown, color=curve.colour, **(marks if few else {}))
    if curve.best is not None and len(shown) > 1:
        at = curve.values.index(curve.best(curve.values))
        marks |= {"markersize": 9, "markerfacecolor": SURFACE, "markeredgewidth": 2}
        axes.plot(curve.steps[at], curve.values[at], color=curve.colour, **marks)
    return End(shown[-1], curve.colour, curve.name)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Return running means over a thirtieth of the curve. The window is centred. It is narrower
    near the beginning, and cut off at the end."""
    reach = len(values) // 60
    means = []
    for i in range(len(values)):
        window = values[i - min(reach, i) : i + min(reach, i) + 1]
        means.append(math.fsum(window) / len(window))
    return means


def _label_ends(axes: Axes, ends: Sequence[End], numbers: Numbers) -> None:
    """Write the last values to the right of the plot, moved apart if they would overlap."""
    low, high = (axes.transData.transform((1, value))[1] for value in axes.get_ylim())
    right = axes.transAxes.transform((1, 0))[0]
    heights = {end: axes.transData.transform((1, end.value))[1] for end in ends}
    ceiling = high
    for rank, end in enumerate(sorted(ends, key=lambda end: -heights[end])):
        floor = low + LABEL_HEIGHT * (len(ends) - 1 - rank)
        height = max(min(heights[end], ceiling), floor)
        ceiling = height - LABEL_HEIGHT
        place: dict[str, Any] = {"transform": IdentityTransform(), "clip_on": False}
        dash = Line2D((right + 8, right + 18), (height, height), color=end.colour, **place)
        axes.add_artist(dash)
        label = f"{end.name} {numbers.text(end.value)}".strip()
        axes.text(right + 23, height, label, va="center", **place)


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an SVG element with the page's colours and font. Its ids begin with the
    title, so that they are unique in the page."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg ") :]
    for stand_in, colour in _PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\1{prefix}-", svg)
    svg = re.sub(r"font: (\d+)px [^;\"]*", r"font-size: \1px", svg)
    return re.sub(r"<metadata>.*?</metadata>|\n *", "", svg, flags=re.DOTALL)


def _reading_data(axes: Axes, curves: Sequence[Curve], numbers: Numbers) -> dict[str, Any]:
    left, right = (axes.transAxes.transform((x, 0))[0] for x in (0, 1))
    return {
        "box": (left, right, TOP, BOTTOM),
        "range": [float(end) for end in axes.get_xlim()],
        "curves": [
            {
                "name": one.name,
                "steps": list(one.steps),
                "values": [numbers.text(value) for value in one.values],
            }
            for one in curves
        ],
    }
