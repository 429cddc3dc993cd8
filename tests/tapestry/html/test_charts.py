"""Plots: no mark hides another, and colours stand out from the paper."""

import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.html.charts import Lane, LaneGroup, lanes


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
