"""HTML in which text stays text, whatever it contains."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.html.markup import (
    Cell,
    Child,
    Markup,
    behind,
    element,
    joined,
    link,
    outside,
    page,
    paragraphs,
    table,
    visible,
)
from tests.support.report_pages import Page


@given(st.text(), st.text())
def test_markup_gives_back_the_text_that_was_put_in(text: str, attribute: str) -> None:
    seen = Page(element("p", {"class": attribute}, text).text)
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


def test_a_style_sheet_cannot_close_its_element() -> None:
    with pytest.raises(ValueError, match="closing tag"):
        page("t", "en", "</style>", joined())


def test_only_markup_passes_unescaped() -> None:
    assert joined("<b>", Markup("<b></b>")).text == "&lt;b&gt;<b></b>"


def test_each_cell_of_a_table_knows_its_column() -> None:
    seen = Page(table("c", ["A", "B", "C"], [["1", "2", "3"]]).text)
    cells = [(name, a) for name, a in seen.tags if name in {"td", "th"}]
    assert [a.get("scope") for n, a in cells if n == "th"] == ["col"] * 3 + ["row"]
    assert [a["data-label"] for n, a in cells if n == "td"] == ["B", "C"]


def test_markup_of_nothing_is_false_and_any_other_is_true() -> None:
    assert not joined()
    assert not joined("", joined())
    assert joined(" ")


def test_an_element_that_holds_nothing_is_not_closed() -> None:
    assert element("br").text == "<br>"
    assert element("p").text == "<p></p>"
    assert element("meta", {"charset": "utf-8"}).text == '<meta charset="utf-8">'


def test_a_number_in_an_attribute_has_two_decimals_at_most() -> None:
    shown = element("rect", {"x": 1.0, "y": 2.345678, "rx": 3, "id": "4.000"}).text
    assert shown == '<rect x="1" y="2.35" rx="3" id="4.000"></rect>'


def test_each_text_of_several_is_a_paragraph() -> None:
    assert paragraphs("a", element("b", {}, "c")).text == "<p>a</p><p><b>c</b></p>"


def test_text_of_the_pages_own_language_has_no_language_of_its_own() -> None:
    assert "lang" not in outside("dd", "x", kind="answer").text
    assert ' lang=""' in outside("dd", "x", kind="answer", language="").text


@pytest.mark.parametrize(("columns", "stacked"), [(2, False), (3, True)])
def test_a_table_of_three_columns_may_become_blocks(
    columns: int, stacked: bool
) -> None:
    seen = Page(table("c", list("ABCD"[:columns]), [list("1234"[:columns])]).text)
    (kind,) = (a["class"] for name, a in seen.tags if name == "table")
    assert kind == ("stack" if stacked else "plain-table")
    assert seen.tags[0][1]["aria-label"] == "c"
    assert seen.tags[0][1]["tabindex"] == "0"


def test_columns_of_text_stand_left_and_those_of_numbers_right() -> None:
    rows: list[list[Child | Cell]] = [["1", Cell("best", "2"), "3"]]
    seen = Page(table("c", ["A", "B", "C"], rows, text_columns=2, kind="matrix").text)
    sides = [a["class"] for name, a in seen.tags if name in {"td", "th"}]
    assert sides == ["text", "text", "number", "text", "text best", "number"]
    (kind,) = (a["class"] for name, a in seen.tags if name == "table")
    assert kind == "matrix stack"


def test_what_is_folded_away_has_a_summary_in_front() -> None:
    assert behind("More", "text").text == (
        "<details><summary>More</summary>text</details>"
    )


def test_a_page_holds_its_title_once_and_escaped() -> None:
    text = page("<b> & c", "en", "p{color:red}", element("p", {}, "body"))
    assert text.startswith('<!doctype html>\n<html lang="en">')
    assert text.count("<title>&lt;b&gt; &amp; c</title>") == 1
    assert text.count("<style>p{color:red}</style>") == 1


def test_a_page_of_another_style_has_another_policy() -> None:
    policies = {
        re.search(r"sha256-[^&]+", page("t", "en", style, joined()))[0]  # type: ignore[index]
        for style in ("p{}", "p{} ")
    }
    assert len(policies) == 2
