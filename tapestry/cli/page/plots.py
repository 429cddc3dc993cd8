"""Plots as SVG, drawn so that shape and words say what colour says too.

Colours come from the style sheet by class (``s0`` to ``s5``), so that a plot fits
light, dark and paper. Lengths are in the units of the plot's own view box.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tapestry.cli.page.markup import Attributes, Markup, element, joined

WIDTH = 720.0
SHAPES = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar and the words at its end."""

    label: str
    value: float
    text: str
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One kind of mark in a dot plot: its name and a value for each row."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small plot of several: a line over the rounds, and levels to compare."""

    title: str
    points: Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Map values onto lengths."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Say where a value lies."""
        part = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + part * (self.end - self.start)


def bars(title: str, rows: Sequence[Bar], *, label_width: float = 170.0) -> Markup:
    """Draw horizontal bars; where a bar has a limit, the limit is drawn around it."""
    top = max([*(r.value for r in rows), *(r.limit or 0.0 for r in rows)], default=1.0)
    scale = Scale(low=0.0, high=top or 1.0, start=label_width, end=WIDTH - 150.0)
    drawn = []
    for place, row in enumerate(rows):
        y = 6.0 + 30.0 * place
        length = max(scale(row.value) - label_width, 1.0)
        drawn.append(_text(label_width - 10, y + 14, row.label, end=True))
        if row.limit is not None:
            whole = scale(row.limit) - label_width
            drawn.append(_rect("track", (label_width - 3, y - 3, whole + 6, 24.0)))
        drawn.append(_rect("bar", (label_width, y, length, 18.0)))
        reach = max(scale(row.value), scale(row.limit or 0.0))
        drawn.append(_text(reach + 8, y + 14, row.text, kind="value"))
    return _svg(title, 12.0 + 30.0 * len(rows), *drawn)


def dots(
    title: str, rows: Sequence[str], series: Sequence[Series], unit: str
) -> Markup:
    """Draw one row for each label and one mark, of its own shape, for each series."""
    values = [v for s in series for v in s.values if v is not None]
    low, high = min([0.0, *values]), max([0.0, *values])
    room = (high - low or 1.0) * 0.06
    scale = Scale(low=low - room, high=high + room, start=150.0, end=WIDTH - 24)
    bottom = 44.0 + 38.0 * len(rows)
    drawn = [_legend([s.name for s in series])]
    for tick in ticks(low, high):
        x = scale(tick)
        kind = "axis" if tick == 0 else "grid"
        drawn.append(_line(kind, (x, 34.0), (x, bottom)))
        drawn.append(
            _text(x, bottom + 16, f"{tick:+g}{unit}" if tick else "0", middle=True)
        )
    for place, label in enumerate(rows):
        y = 56.0 + 38.0 * place
        drawn.append(_text(138.0, y + 4, label, end=True))
        drawn.append(_line("grid", (150.0, y), (WIDTH - 24, y)))
        for number, one in enumerate(series):
            value = one.values[place]
            if value is not None:
                words = f"{label}, {one.name}: {value:+.1f}{unit}"
                drawn.append(mark(number, (scale(value), y), words))
    return _svg(title, bottom + 24.0, *drawn)


def panels(title: str, plots: Sequence[Panel], *, columns: int = 4) -> Markup:
    """Draw one small line for each panel, all with the same units per length."""
    columns = max(1, min(columns, len(plots)))
    width = WIDTH / columns
    spans = [max(v for _, v in p.points) - min(v for _, v in p.points) for p in plots]
    span = max([*spans, 1e-9]) * 1.15
    drawn = [
        element(
            "g",
            {"transform": _move(n % columns * width, n // columns * 170.0)},
            _panel(plot, width, span),
        )
        for n, plot in enumerate(plots)
    ]
    return _svg(title, 170.0 * ((len(plots) + columns - 1) // columns), *drawn)


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


def mark(number: int, at: tuple[float, float], words: str = "") -> Markup:
    """Draw the mark of a series: a shape of its own in a colour of its own."""
    x, y = at
    kind: Attributes = {"class": f"mark s{number % 6}"}
    inside = [element("title", {}, words)] if words else []
    match SHAPES[number % len(SHAPES)]:
        case "circle":
            return element("circle", {**kind, "cx": x, "cy": y, "r": 6.0}, *inside)
        case "square":
            return _rect(
                f"mark s{number % 6}", (x - 5.3, y - 5.3, 10.6, 10.6), words=words
            )
        case "diamond":
            ends = ((x, y - 7.5), (x + 7.5, y), (x, y + 7.5), (x - 7.5, y))
            corners = " ".join(f"{a:g},{b:g}" for a, b in ends)
        case _:
            corners = f"{x:g},{y - 7:g} {x + 7:g},{y + 5.5:g} {x - 7:g},{y + 5.5:g}"
    return element("polygon", {**kind, "points": corners}, *inside)


def ticks(low: float, high: float, *, count: int = 6) -> list[float]:
    """Choose round numbers between two values, zero among them if it lies there."""
    span = high - low
    if span <= 0:
        return [low]
    step = 1.0
    while span / step > count:
        step *= 10
    while span / step <= count / 10:
        step /= 10
    step = next(s for s in (step / 5, step / 2, step) if span / s <= count)
    first = int(low // step)
    found = [
        n * step for n in range(first, first + 2 * count) if low <= n * step <= high
    ]
    return [round(value, 10) for value in found]


def _panel(plot: Panel, width: float, span: float) -> Markup:
    values = [value for _, value in plot.points]
    middle = (max(values) + min(values)) / 2
    across = Scale(
        low=plot.points[0][0], high=plot.points[-1][0], start=18, end=width - 62
    )
    up = Scale(low=middle - span / 2, high=middle + span / 2, start=138, end=44)
    places = [(across(n), up(value)) for n, value in plot.points]
    first, last = places[0], places[-1]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [
        _text(6, 18, plot.title, kind="title"),
        _line("axis dashed", (10, first[1]), (width - 56, first[1])),
        element("polyline", {"class": "line", "points": path}),
        *(
            element("circle", {"class": "dot", "cx": x, "cy": y, "r": 3.2})
            for x, y in places
        ),
        _text(last[0] + 9, last[1] + 4, f"{values[-1]:.3f}", kind="value"),
        _text(10, first[1] - 8, f"{values[0]:.3f}", kind="small"),
    ]
    for number, _ in plot.points:
        drawn.append(_text(across(number), 158, str(number), kind="small", middle=True))
    return joined(*drawn)


def _legend(names: Sequence[str]) -> Markup:
    drawn, x = [], 12.0
    for number, name in enumerate(names):
        drawn += [mark(number, (x, 14.0)), _text(x + 12, 18.5, name)]
        x += 34.0 + 7.1 * len(name)
    return element("g", {"class": "legend"}, *drawn)


def _move(x: float, y: float) -> str:
    return f"translate({x:g} {y:g})"


def _svg(title: str, height: float, *drawn: Markup) -> Markup:
    box = f"0 0 {WIDTH:g} {height:g}"
    return element("svg", {"viewBox": box, "role": "img", "aria-label": title}, *drawn)


def _rect(
    kind: str,
    box: tuple[float, float, float, float],
    *,
    radius: float = 2.0,
    words: str = "",
) -> Markup:
    x, y, width, height = box
    inside = [element("title", {}, words)] if words else []
    size: Attributes = {"x": x, "y": y, "width": width, "height": height, "rx": radius}
    return element("rect", {"class": kind, **size}, *inside)


def _line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> Markup:
    ends: Attributes = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    return element("line", {"class": kind, **ends})


def _text(
    x: float,
    y: float,
    text: str,
    *,
    kind: str = "",
    end: bool = False,
    middle: bool = False,
) -> Markup:
    anchor = "end" if end else "middle" if middle else "start"
    place: Attributes = {
        "x": x,
        "y": y,
        "text-anchor": anchor,
        "class": kind or "label",
    }
    return element("text", place, text)
