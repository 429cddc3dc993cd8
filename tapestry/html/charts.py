"""Plots as SVG, drawn so that shape and words say what colour says too.

Places along the width are percentages and all other lengths are pixels. So a plot
fills whatever width there is, and its text has the same size on every screen. Colours
come from the style sheet by class (``s0`` to ``s5``), so that a plot fits light, dark
and paper.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tapestry.html.markup import Attributes, Markup, element, joined

SHAPES = ("circle", "square", "diamond", "triangle")
_LANE = 24.0  # pixels for one mark and its words: no two marks share a lane
_PANEL = 170.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One mark of a group: its series, where it lies, and the words beside it."""

    series: int
    value: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneGroup:
    """A name, and under it a lane for each mark."""

    title: str
    lanes: Sequence[Lane]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small plot of several: a line over the rounds, and levels to compare."""

    title: str
    points: Sequence[tuple[int, float]]
    first: str  # words at the first point
    last: str  # words at the last point
    ends: tuple[str, str]  # names of the first and last place along the width


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisScale:
    """Map values onto lengths."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Say where a value lies."""
        part = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + part * (self.end - self.start)


def lanes(title: str, groups: Sequence[LaneGroup]) -> Markup:
    """Draw for each group one line from zero to each of its marks.

    Guarantees:
        Every mark and every word has a lane of its own, so none hides another.
    """
    values = [lane.value for group in groups for lane in group.lanes]
    low, high = min([0.0, *values]), max([0.0, *values])
    scale = AxisScale(
        low=low,
        high=high if high > low else low + 1.0,
        start=36.0 if low < 0 else 3.0,  # room for words on the left, if needed
        end=65.0 if high > 0 else 94.0,
    )
    zero, y, drawn = scale(0.0), 0.0, []
    for group in groups:
        drawn.append(_text(0.0, y + 17.0, group.title, kind="title"))
        y += 26.0
        drawn.append(_line("axis", (zero, y), (zero, y + _LANE * len(group.lanes))))
        for lane in group.lanes:
            drawn.append(_lane(lane, zero=zero, x=scale(lane.value), y=y + _LANE / 2))
            y += _LANE
        y += 12.0
    return _svg(title, y, *drawn)


def panels(plots: Sequence[Panel]) -> Markup:
    """Draw one small line for each panel, all with the same units per length."""
    spans = [max(v for _, v in p.points) - min(v for _, v in p.points) for p in plots]
    span = max([*spans, 1e-9]) * 1.15
    drawn = [_svg(plot.title, _PANEL, _panel(plot, span)) for plot in plots]
    return element("div", {"class": "panels"}, *drawn)


def legend(names: Sequence[str]) -> Markup:
    """Write the name of each series beside its mark, as a list that can wrap."""
    items = [
        element(
            "li",
            {},
            element(
                "svg",
                {"class": "key", "width": 16, "height": 16, "aria-hidden": "true"},
                mark(number, (50.0, 8.0)),
            ),
            name,
        )
        for number, name in enumerate(names)
    ]
    return element("ul", {"class": "legend"}, *items)


def weave(threads: int) -> Markup:
    """Draw the band at the top of the page: one coloured thread per institution."""
    size, gap = 10.0, 1.6
    drawn = []
    for row in range(threads):
        for column in range(2):
            over = (row + column) % 2 == 0
            corner = (column * size + gap / 2, row * size + gap / 2)
            wide = (size, size - gap) if over else (size - gap, size)
            kind = f"s{row % 6}" if over else "warp"
            drawn.append(_rect(kind, (*corner, *wide), radius=2.2))
    height = threads * size
    pattern: Attributes = {
        "id": "weave",
        "width": 2 * size,
        "height": height,
        "patternUnits": "userSpaceOnUse",
    }
    band: Attributes = {"width": "100%", "height": height, "fill": "url(#weave)"}
    return element(
        "svg",
        {"class": "weave", "height": height, "width": "100%", "aria-hidden": "true"},
        element("defs", {}, element("pattern", pattern, *drawn)),
        element("rect", band),
    )


def mark(number: int, at: tuple[float, float]) -> Markup:
    """Draw the mark of a series: a shape of its own in a colour of its own.

    It has an ``svg`` of its own around it, which can be placed by a percentage.
    """
    kind: Attributes = {"class": f"mark s{number % 6}"}
    match SHAPES[number % len(SHAPES)]:
        case "circle":
            drawn = element("circle", {**kind, "cx": 0, "cy": 0, "r": 6.0})
        case "square":
            drawn = _rect(f"mark s{number % 6}", (-5.3, -5.3, 10.6, 10.6))
        case "diamond":
            corners = "0,-7.5 7.5,0 0,7.5 -7.5,0"
            drawn = element("polygon", {**kind, "points": corners})
        case _:
            corners = "0,-7 7,5.5 -7,5.5"
            drawn = element("polygon", {**kind, "points": corners})
    place: Attributes = {"x": _percent(at[0]), "y": at[1], "width": 1, "height": 1}
    return element("svg", {**place, "class": "place"}, drawn)


def _lane(lane: Lane, *, zero: float, x: float, y: float) -> Markup:
    left = lane.value < 0
    return joined(
        _line(f"stem t{lane.series % 6}", (zero, y), (x, y)),
        mark(lane.series, (x, y)),
        _text(x, y + 4.5, lane.text, kind="value", shift=-13.0 if left else 13.0),
    )


def _panel(plot: Panel, span: float) -> Markup:
    values = [value for _, value in plot.points]
    middle = (max(values) + min(values)) / 2
    across = AxisScale(low=plot.points[0][0], high=plot.points[-1][0], start=4, end=76)
    up = AxisScale(low=middle - span / 2, high=middle + span / 2, start=138, end=52)
    places = [(across(n), up(value)) for n, value in plot.points]
    first, last = places[0], places[-1]
    steps = itertools.pairwise(places)
    return joined(
        _text(0.0, 17.0, plot.title, kind="title"),
        _line("axis dashed", (4.0, first[1]), (76.0, first[1])),
        *(_line("line", start, end) for start, end in steps),
        *(
            element("circle", {"class": "dot", "cx": _percent(x), "cy": y, "r": 3.4})
            for x, y in places
        ),
        _text(last[0], last[1] + 4.5, plot.last, kind="value", shift=10.0),
        _text(2.0, first[1] - 10.0, plot.first, kind="small"),
        _text(2.0, 164.0, plot.ends[0], kind="small"),
        _text(80.0, 164.0, plot.ends[1], kind="small", shift=-1.0),
    )


def _percent(x: float) -> str:
    return f"{x:.2f}%"


def _svg(title: str, height: float, *drawn: Markup) -> Markup:
    size: Attributes = {"width": "100%", "height": height, "class": "plot"}
    return element("svg", {**size, "role": "img", "aria-label": title}, *drawn)


def _rect(
    kind: str, box: tuple[float, float, float, float], *, radius: float = 2.0
) -> Markup:
    x, y, width, height = box
    size: Attributes = {"x": x, "y": y, "width": width, "height": height, "rx": radius}
    return element("rect", {"class": kind, **size})


def _line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> Markup:
    ends: Attributes = {
        "x1": _percent(start[0]),
        "y1": start[1],
        "x2": _percent(end[0]),
        "y2": end[1],
    }
    return element("line", {"class": kind, **ends})


def _text(x: float, y: float, text: str, *, kind: str, shift: float = 0.0) -> Markup:
    """Write text at a place; shifted to the left, it ends there."""
    place: Attributes = {
        "x": _percent(x),
        "y": y,
        "dx": shift,
        "text-anchor": "end" if shift < 0 else "start",
        "class": kind,
    }
    return element("text", place, text)
