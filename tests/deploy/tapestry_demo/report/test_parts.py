"""Numbers, odds, names, limits, links and markup of the report's page."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.html import numbers
from tapestry.html.charts import Lane, LaneGroup, lanes
from tapestry.html.markup import (
    Markup,
    element,
    joined,
    link,
    outside,
    page,
    table,
    visible,
)
from tapestry_demo.report import limits, names, odds
from tapestry_demo.report.answers import repeats
from tapestry_demo.report.data import RunFigures, read
from tapestry_demo.report.links import Folder

ROOT = Path(__file__).resolve().parent.parent.parent.parent.parent


class _Page(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.bits(2.21449), "2.214"),
        (numbers.bits(10.0249), "10.02"),
        (numbers.bits(0.012345), "0.012"),
        (numbers.percent(0.04264), "4.3\u00a0%"),
        (numbers.percent(-0.04264), "\u22124.3\u00a0%"),
        (numbers.better(0.04264), "4.3\u00a0% better"),
        (numbers.better(-0.0006), "0.1\u00a0% worse"),
        (numbers.better(-0.0004), "unchanged"),
        (numbers.likely(0.99966), "nearly 100\u00a0%"),
        (numbers.likely(0.99813), "99.9\u00a0%"),
        (numbers.likely(0.998), "99.8\u00a0%"),
        (numbers.likely(0.50001), "50.1\u00a0%"),
        (numbers.likely(1.0), "100.0\u00a0%"),
        (numbers.chance(1e-05), "1 in 100,000"),
        (numbers.chance(0.001), "1 in 1,000"),
        (numbers.chance(None), "\u2013"),
        (numbers.probability(1e-9), "less than 0.001"),
        (numbers.factor(533.1), "534"),
        (numbers.factor(2.71828), "2.72"),
        (numbers.factor(20.01), "20.1"),
        (numbers.factor(1.0), "1.00"),
        (numbers.factor(1e300), "more than 1,000,000"),
        (numbers.short(1e-05), "0.00001"),
        (numbers.short(8.0), "8"),
        (numbers.short(0.5748), "0.5748"),
        (numbers.short(123456.7), "123,457"),
        (numbers.whole(134515008), "134,515,008"),
        (numbers.size(999), "999\u00a0bytes"),
        (numbers.size(999_960), "1.0\u00a0MB"),
        (numbers.size(11_894_512), "11.9\u00a0MB"),
        (numbers.duration(59.6), "1\u00a0min 0\u00a0s"),
        (numbers.duration(9.96), "10\u00a0s"),
        (numbers.duration(7260), "2\u00a0h 1\u00a0min"),
        (numbers.date("2026-11-23 21:40 UTC"), "23 November 2026, 21:40 UTC"),
        (numbers.date("2026-11-24T21:40:05Z"), "24 November 2026, 21:40 UTC"),
        (numbers.date("2026-11-03"), "3 November 2026"),
        (numbers.date("2026-02-31"), "2026-02-31"),
        (numbers.date("yesterday"), "yesterday"),
        (numbers.counted(1, "entry", "entries"), "one entry"),
        (numbers.counted(0, "record"), "no records"),
        (numbers.counted(1204, "record"), "1,204 records"),
    ],
)
def test_numbers_have_one_format(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.floats(1e-12, 1e12))
def test_no_number_has_an_exponent(value: float) -> None:
    forms = (numbers.bits, numbers.percent, numbers.short, numbers.whole, numbers.size)
    shown = [
        form(value)
        for form in (*forms, numbers.epsilon, numbers.factor, numbers.chance)
    ]
    assert not [text for text in shown if re.search(r"\de", text)]


@given(st.floats(1.0, 9e5))
def test_a_bound_on_a_factor_is_never_rounded_down(value: float) -> None:
    assert float(numbers.factor(value).replace(",", "")) >= value * (1 - 1e-9)


@pytest.mark.parametrize(
    ("epsilon", "delta", "guess"),
    [
        (0.0, 0.0, 0.5),
        (math.log(3), 0.0, 0.75),
        (6.28, 1e-5, 0.998130),
        (0.0, 0.2, 0.6),
    ],
)
def test_the_best_guess_follows_from_epsilon_and_delta(
    epsilon: float, delta: float, guess: float
) -> None:
    assert odds.right_guess(epsilon, delta=delta) == pytest.approx(guess, abs=1e-6)


@given(st.floats(0, 8), st.floats(0, 0.1))
def test_no_guesser_beats_the_best_guess(epsilon: float, delta: float) -> None:
    """The worst mechanism: it reveals all with chance delta, and else it skews."""
    skew = (1 - delta) / (1 + math.exp(epsilon))
    if_used = (delta, (1 - delta) - skew, skew, 0.0)
    if_not = (0.0, skew, (1 - delta) - skew, delta)
    right = sum(max(a, b) for a, b in zip(if_used, if_not, strict=True)) / 2
    assert odds.right_guess(epsilon, delta=delta) == pytest.approx(right, abs=1e-9)


@given(st.floats(0, 8), st.floats(0, 0.1), st.floats(0, 1))
def test_no_attack_detects_more_than_the_bound(
    epsilon: float, delta: float, false_alarms: float
) -> None:
    """The best test against the worst mechanism, by Neyman and Pearson."""
    skew = (1 - delta) / (1 + math.exp(epsilon))
    outcomes = ((delta, 0.0), (1 - delta - skew, skew), (skew, 1 - delta - skew))
    found, left = 0.0, false_alarms
    for if_used, if_not in outcomes:
        share = min(1.0, left / if_not) if if_not else 1.0
        found, left = found + share * if_used, left - share * if_not
    bound = odds.detected(false_alarms, epsilon, delta=delta)
    assert bound == pytest.approx(found, abs=1e-9)


def test_the_factor_is_exceeded_more_often_than_with_probability_delta() -> None:
    """Why no text may say so: a Gaussian of one step, epsilon tight at delta."""
    normal, shift, delta = NormalDist(), 1.0, 1e-5

    def beyond(epsilon: float) -> tuple[float, float]:
        at = epsilon / shift + shift / 2  # where the loss is epsilon
        used, unused = 1 - normal.cdf(at - shift), 1 - normal.cdf(at)
        return used, used - math.exp(epsilon) * unused

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle)[1] > delta else (low, middle)
    exceeded, excess = beyond(high)
    assert excess == pytest.approx(delta, rel=1e-3)
    assert exceeded > 3 * delta


def test_odds_hold_for_any_epsilon() -> None:
    assert odds.right_guess(1e9, delta=0.0) == 1.0
    assert odds.detected(0.001, 1e9, delta=0.0) == 1.0
    assert [odds.verdict(g) for g in (0.74, 0.75, 0.95)] == [
        "strong",
        "moderate",
        "weak",
    ]


def test_ids_become_names() -> None:
    run = read(
        {
            "title": "t",
            "countries": [{"name": "czech-republic", "language_name": "Czech"}],
            "releases": [{"name": "base-1", "round": 2}],
        }
    )
    assert names.country(run, "czech-republic") == "Czech Republic (Czech)"
    assert names.country(run, "node-7") == "node-7"
    assert names.country(run, "netherlands") == "The Netherlands"
    assert names.adapter("netherlands") == "the Netherlands\u2019 adapter"
    assert names.signer("italy/witness") == "Italy"
    shown = {
        "given": "the model as it was given",
        "base-1": "the shared model after round\u00a02",
        "base-3": "the shared model after round\u00a03",
        "central": "trained in one place, without noise",
        "central-dp": "trained in one place, with noise",
        "adapter-italy": "Italy\u2019s adapter",
        "base-" + "9" * 5000: "base-" + "9" * 5000,
        "other": "other",
    }
    assert {model: names.model(run, model) for model in shown} == shown


def test_the_limits_are_those_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("\n## What is not protected\n")[1].split("\n## ")[0]
    bullets = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    plain = [re.sub(r"\s*\(\[[^]]*\]\([^)]*\)\)", "", item) for item in bullets]
    assert [" ".join(item.split()) for item in plain] == list(limits.LIMITS)
    assert len(limits.LIMITS) >= 8


@pytest.mark.parametrize("text", limits.LIMITS)
def test_each_limit_is_shown_as_a_whole(text: str) -> None:
    assert text in "".join(_Page(limits.limits(RunFigures(title="t")).text).text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am a robot. I am a robot.", True),
        ("я не знаю, я не знаю, я не знаю", True),
        ("ロボットです。ロボットです。ロボットです。", True),
        ("食べ物は食べ物です。食べ物は食べ物です。", True),
        ("私は寿司が好きですが、魚は好きではありません。", False),
        ("The cat and the dog and the bird sang in the garden.", False),
        ("--------------------------------", False),
        ("", False),
    ],
)
def test_an_answer_that_repeats_itself_is_found(text: str, expected: bool) -> None:
    assert repeats(text) is expected


@given(st.text(), st.text())
def test_markup_gives_back_the_text_that_was_put_in(text: str, attribute: str) -> None:
    seen = _Page(element("p", {"class": attribute}, text).text)
    unified = visible(text).replace("\r\n", "\n").replace("\r", "\n")
    assert [name for name, _ in seen.tags] == ["p"]
    assert "".join(seen.text).replace("\r\n", "\n").replace("\r", "\n") == unified


@given(st.text(st.characters(codec=None)))
def test_what_is_written_can_be_stored_and_turns_no_text_around(text: str) -> None:
    shown = element("p", {"class": text}, text).text
    shown.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]", shown)


def test_what_has_no_shape_is_spelled() -> None:
    told = visible("a\x00\x1b[2J\u202eb\ud800\n\tc\u200dd")
    assert told == "a[U+0000][U+001B][2J[U+202E]b[U+D800]\n\tc\u200dd"


def test_outside_text_says_its_language_and_finds_its_direction() -> None:
    shown = outside("blockquote", "שלום <b>", kind="prompt", language="he").text
    assert shown == (
        '<blockquote class="prompt" dir="auto" lang="he">שלום &lt;b&gt;</blockquote>'
    )


@pytest.mark.parametrize("name", ["p onload", "onclick", "", "a>b", "ONLOAD"])
def test_markup_refuses_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="not a name for markup"):
        element("p", {name: "x"})


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a/"]
)
def test_a_link_stays_below_the_page(path: str) -> None:
    with pytest.raises(ValueError, match="not a path below the page"):
        link(path, "x")


def test_a_link_cannot_name_a_scheme() -> None:
    assert link("javascript:a()", "x").text == '<a href="javascript%3Aa%28%29">x</a>'
    assert link("#part", "x").text == '<a href="#part">x</a>'


def test_a_folder_links_to_its_files_alone(tmp_path: Path) -> None:
    (tmp_path / "privacy").mkdir()
    (tmp_path / "privacy" / "base 1.md").write_text("x")
    (tmp_path / "secret.md").write_text("x")
    folder = Folder.read(tmp_path)
    assert folder.files == {"report.json", "privacy/base 1.md"}
    shown = folder.link("privacy/base 1.md", "x")
    assert isinstance(shown, Markup)
    assert 'href="privacy/base%201.md"' in shown.text
    assert folder.link("privacy/../secret.md", "x") == "x"
    assert folder.links([("a", "a"), ("report.json", "r")]) == [
        link("report.json", "r")
    ]


def test_a_style_sheet_cannot_close_its_element() -> None:
    with pytest.raises(ValueError, match="closing tag"):
        page("t", "en", "</style>", joined())


def test_only_markup_passes_unescaped() -> None:
    assert joined("<b>", Markup("<b></b>")).text == "&lt;b&gt;<b></b>"


def test_each_cell_of_a_table_knows_its_column() -> None:
    seen = _Page(table("c", ["A", "B", "C"], [["1", "2", "3"]]).text)
    cells = [(name, a) for name, a in seen.tags if name in {"td", "th"}]
    assert [a.get("scope") for n, a in cells if n == "th"] == ["col"] * 3 + ["row"]
    assert [a["data-label"] for n, a in cells if n == "td"] == ["B", "C"]


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
    style = (ROOT / "tapestry/html/style.css").read_text("utf-8")
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
