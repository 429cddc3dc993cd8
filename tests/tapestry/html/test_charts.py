"""Plots: no mark hides another, and colours stand out from the paper."""

import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.html import charts
from tapestry.html.charts import (
    AxisScale,
    Lane,
    LaneGroup,
    Panel,
    lanes,
    legend,
    mark,
    panels,
    weave,
)
from tests.support.report_pages import Page


@given(st.lists(st.lists(st.floats(-2, 2), max_size=4), min_size=1, max_size=6))
def test_no_two_marks_of_a_plot_share_a_line(values: list[list[float]]) -> None:
    groups = [
        LaneGroup(
            title="g",
            lanes=[Lane(series=n, value=v, text="t") for n, v in enumerate(g)],
        )
        for g in values
    ]
    shown = lanes("t", groups).text
    heights = re.findall(r'<svg x="([\d.-]+)%" y="([\d.]+)"', shown)
    assert len({y for _, y in heights}) == len(heights) == sum(map(len, values))
    assert all(0 <= float(x) <= 95 for x, _ in heights)


def _luminance(colour: str) -> float:
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_of_text_stand_out(scheme: int) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 to 1 for text, 3 to 1 for marks."""
    style = (resources.files("tapestry.html") / "style.css").read_text("utf-8")
    blocks = re.findall(r":root\{(.*?)\}", style, re.DOTALL)[:2]
    found: dict[str, str] = {}
    for block in blocks[: scheme + 1]:
        for name, value in re.findall(r"--(\w+):(#\w+)", block):
            found[name] = (
                value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:])
            )

    def contrast(one: str, other: str) -> float:
        high, low = sorted((_luminance(found[one]), _luminance(found[other])))[::-1]
        return (high + 0.05) / (low + 0.05)

    for paper in ("paper", "card"):
        assert all(contrast(ink, paper) >= 4.5 for ink in ("ink", "muted", "accent"))
        assert all(contrast(f"s{n}", paper) >= 3 for n in range(6))
    assert all(contrast("ink", f"h{n}") >= 4.5 for n in range(1, 7))


def _panel(title: str, *values: float) -> Panel:
    return Panel(
        title=title,
        points=list(enumerate(values)),
        first=f"{values[0]:.1f}",
        last=f"{values[-1]:.1f}",
        ends=("as given", f"round {len(values) - 1}"),
    )


def _heights(drawn: str, kind: str) -> list[float]:
    found = re.findall(rf'class="{kind}"[^>]* y1="([\d.]+)"[^>]* y2="([\d.]+)"', drawn)
    return [float(end) - float(start) for start, end in found]


@given(st.floats(-5, 5), st.floats(0.1, 5), st.floats(0, 1))
def test_a_scale_maps_its_ends_and_what_lies_between_in_proportion(
    low: float, span: float, part: float
) -> None:
    scale = AxisScale(low=low, high=low + span, start=10.0, end=60.0)
    assert scale(low) == pytest.approx(10.0)
    assert scale(low + span) == pytest.approx(60.0)
    assert scale(low + part * span) == pytest.approx(10.0 + 50.0 * part)


def test_a_scale_of_one_value_divides_by_nothing() -> None:
    assert AxisScale(low=2.0, high=2.0, start=3.0, end=9.0)(2.0) == 3.0


def test_a_gain_is_drawn_to_the_right_of_zero_and_a_loss_to_the_left() -> None:
    group = LaneGroup(
        title="Italian",
        lanes=[
            Lane(series=0, value=0.5, text="better"),
            Lane(series=1, value=-0.5, text="worse"),
        ],
    )
    drawn = lanes("Gains", [group]).text
    stems = re.findall(r'class="stem t(\d)" x1="([\d.]+)%"[^>]*x2="([\d.]+)%"', drawn)
    zero = {start for _, start, _ in stems}
    assert len(zero) == 1
    ends = {series: float(end) - float(start) for series, start, end in stems}
    assert ends["0"] == pytest.approx(-ends["1"], abs=0.02)
    assert ends["0"] > 0
    assert re.search(r'dx="13" text-anchor="start"[^>]*>better<', drawn)
    assert re.search(r'dx="-13" text-anchor="end"[^>]*>worse<', drawn)


def test_lanes_of_nothing_but_zeros_are_drawn() -> None:
    group = LaneGroup(title="g", lanes=[Lane(series=0, value=0.0, text="unchanged")])
    assert "unchanged" in lanes("t", [group]).text
    assert 'height="0"' in lanes("t", []).text


def test_equal_slopes_of_several_panels_are_equally_steep() -> None:
    flat, steep = _panel("flat", 2.0, 1.9, 1.8), _panel("steep", 9.0, 8.5, 8.0)
    drawn = panels([flat, steep]).text.split("</svg><svg")
    down = [_heights(each, "line") for each in drawn]
    assert all(each > 0 for row in down for each in row)  # fewer bits lie lower
    assert sum(down[1]) == pytest.approx(5 * sum(down[0]), rel=0.01)
    alone = _heights(panels([flat]).text, "line")
    assert sum(alone) > sum(down[0])


def test_a_panel_that_does_not_move_is_a_level_line() -> None:
    drawn = panels([_panel("flat", 2.0, 2.0, 2.0)]).text
    assert _heights(drawn, "line") == [0.0, 0.0]


def test_a_panel_says_its_first_and_last_value_and_place() -> None:
    seen = Page(panels([_panel("Italian", 2.3, 2.1, 1.9)]).text)
    assert seen.text == ["Italian", "1.9", "2.3", "as given", "round 2"]


def test_marks_of_four_series_differ_in_shape_and_of_six_in_colour() -> None:
    drawn = [mark(number, (50.0, 8.0)).text for number in range(6)]
    shapes = [re.sub(r"s\d", "", each) for each in drawn]
    assert len(set(shapes[:4])) == len(charts.SHAPES) == 4
    assert shapes[4] == shapes[0]
    assert len({re.search(r"mark s(\d)", each)[1] for each in drawn}) == 6  # type: ignore[index]
    assert mark(24, (50.0, 8.0)) == mark(0, (50.0, 8.0))


def test_a_legend_names_each_series_beside_its_mark() -> None:
    drawn = legend(["shared", "<own>"]).text
    items = drawn.split("<li>")[1:]
    names = [item.split("</svg>")[-1].split("<")[0] for item in items]
    assert names == ["shared", "&lt;own&gt;"]
    assert all(mark(n, (50.0, 8.0)).text in item for n, item in enumerate(items))


@pytest.mark.parametrize("threads", [3, 7])
def test_the_band_has_a_thread_for_each_institution_and_is_not_read_aloud(
    threads: int,
) -> None:
    drawn = weave(threads).text
    colours = re.findall(r'class="s(\d)"', drawn)
    assert colours == [str(row % 6) for row in range(threads)]
    assert drawn.count('class="warp"') == threads
    assert Page(drawn).tags[0][1]["aria-hidden"] == "true"


def test_a_plot_is_one_picture_with_a_name_whatever_it_is_called() -> None:
    name = 'a "plot" <b>'
    drawn = lanes(name, [LaneGroup(title=name, lanes=[])]).text
    seen = Page(drawn)
    assert seen.tags[0][1]["role"] == "img"
    assert seen.tags[0][1]["aria-label"] == name
    assert seen.text == [name]
