"""A run's figures, and the report's page of them as a reader sees it."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tapestry_demo.report import page
from tapestry_demo.report.data import RunFigures
from tapestry_demo.report.links import Folder

FIXTURE = Path(__file__).parent.parent / "vectors" / "report-fixture.json"


class Page(HTMLParser):
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

    def words(self) -> str:
        return " ".join("".join(self.text).split())

    def hrefs(self) -> list[str]:
        return [a["href"] or "" for name, a in self.tags if name == "a"]


def figures() -> dict[str, Any]:
    """The figures of a run in which all went well."""
    loaded: dict[str, Any] = json.loads(FIXTURE.read_text("utf-8"))
    return loaded


def figures_of(data: dict[str, Any]) -> RunFigures:
    """Read figures that a test wrote as plain values."""
    return RunFigures.model_validate(data)


def run_of(**changes: Any) -> RunFigures:
    """Read the figures of that run with some parts changed."""
    return figures_of({**figures(), **changes})


def country_of(name: str, **changes: Any) -> dict[str, Any]:
    """The figures of one institution, in a country that they do not name."""
    first: dict[str, Any] = figures()["countries"][0]
    return {**first, "name": name, "language_name": name.capitalize(), **changes}


def round_of(number: int, **changes: Any) -> dict[str, Any]:
    """The figures of one round, of which only the number is known."""
    first: dict[str, Any] = figures()["rounds"][0]
    bare: dict[str, Any] = {
        "included": [],
        "dropped": [],
        "mean_norm": None,
        "bits_per_byte": {},
    }
    return {**first, **bare, "number": number, **changes}


def page_of(data: dict[str, Any]) -> str:
    """Draw the page of some figures."""
    return page.render(figures_of(data), Folder())


def words_of(data: dict[str, Any]) -> str:
    """The words of a page, its head among them."""
    return Page(page_of(data)).words()


def body_words(data: dict[str, Any]) -> str:
    """The words of a page without its head, those of each block apart."""
    body = page_of(data).split("<h1>")[1]
    text = re.sub(r"</?(a|strong|span|b)\b[^>]*>", "", body)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def tables_of(markup: str) -> list[list[list[str]]]:
    """The text of each cell of each row of each table, with plain spaces."""
    found = []
    for table in re.findall(r"<table .*?</table>", markup, re.DOTALL):
        rows = re.findall(r"<tr .*?</tr>", table, re.DOTALL)
        cells = [re.findall(r"<t[hd] .*?</t[hd]>", row, re.DOTALL) for row in rows]
        found.append([[Page(c).words().replace("\xa0", " ") for c in r] for r in cells])
    return found
