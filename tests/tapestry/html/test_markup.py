"""HTML in which text stays text, whatever it contains."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
