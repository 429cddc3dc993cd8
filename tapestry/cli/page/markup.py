"""HTML with one way to write it, in which text is always escaped.

A page is built from `element` alone. Whatever is a plain string, child or
attribute, is escaped; only a `Markup` passes as it is, and only this module
makes one out of strings.
"""

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9:-]*")
_VOID = frozenset({"meta", "br", "hr", "link"})
_NO_ATTRIBUTES: Mapping[str, str | int | float] = {}

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Markup:
    """HTML that is safe to put into a page as it is."""

    text: str


Child = str | Markup


def element(
    name: str, attributes: Attributes = _NO_ATTRIBUTES, *children: Child
) -> Markup:
    """Write one element.

    Guarantees:
        No child or attribute that is a plain string can close the element, open
        another one or add an attribute.

    Raises:
        ValueError: The name of the element or of an attribute is not a name, or
            the attribute would run a script.
    """
    for key in (name, *attributes):
        if not _NAME.fullmatch(key) or key.lower().startswith("on"):
            raise ValueError(f"not a name for markup: {key!r}")
    written = "".join(
        f' {key}="{html.escape(_number(value))}"' for key, value in attributes.items()
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children).text}</{name}>")


def joined(*children: Child) -> Markup:
    """Put children behind one another."""
    return Markup("".join(_child(child) for child in children))


def paragraphs(*texts: Child) -> Markup:
    """Write each text as a paragraph."""
    return joined(*(element("p", {}, text) for text in texts))


def table(
    caption: str,
    header: Sequence[Child],
    rows: Sequence[Sequence[Child]],
    *,
    text_columns: int = 1,
) -> Markup:
    """Write a table; the first column names the row.

    Args:
        caption: What the table shows, also for those who hear the page.
        header: One cell for each column.
        rows: The cells; a cell may be a whole ``td`` already.
        text_columns: So many columns from the left hold text; the others hold
            numbers and are set flush right.
    """
    head = [
        element("th", {"scope": "col", "class": _side(place, text_columns)}, cell)
        for place, cell in enumerate(header)
    ]
    body = [element("tr", {}, *_cells(row, text_columns)) for row in rows]
    return element(
        "div",
        {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption},
        element(
            "table",
            {},
            element("caption", {}, caption),
            element("thead", {}, element("tr", {}, *head)),
            element("tbody", {}, *body),
        ),
    )


def behind(summary: str, *children: Child) -> Markup:
    """Fold something away; on paper it is shown."""
    return element("details", {}, element("summary", {}, summary), *children)


def page(title: str, language: str, style: str, *body: Child) -> str:
    """Write a whole page that loads nothing and runs nothing.

    Guarantees:
        The content security policy in the page allows this one style sheet, by
        its digest, and nothing else: no script, no image, font, frame or form.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    if "</" in style:
        raise ValueError("a style sheet cannot hold a closing tag")
    head = element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", {"name": "referrer", "content": "no-referrer"}),
        element(
            "meta",
            {"name": "viewport", "content": "width=device-width,initial-scale=1"},
        ),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("title", {}, title),
        Markup(f"<style>{style}</style>"),
    )
    whole = element("html", {"lang": language}, head, element("body", {}, *body))
    return f"<!doctype html>\n{whole.text}\n"


def _cells(row: Sequence[Child], text_columns: int) -> list[Markup]:
    cells = []
    for place, cell in enumerate(row):
        if isinstance(cell, Markup) and cell.text.startswith("<td"):
            cells.append(cell)
        elif place == 0:
            cells.append(element("th", {"scope": "row", "class": "text"}, cell))
        else:
            cells.append(element("td", {"class": _side(place, text_columns)}, cell))
    return cells


def _side(place: int, text_columns: int) -> str:
    return "text" if place < text_columns else "number"


def _child(child: Child) -> str:
    return child.text if isinstance(child, Markup) else html.escape(child)


def _number(value: str | float) -> str:
    return (
        f"{value:.2f}".rstrip("0").rstrip(".")
        if isinstance(value, float)
        else str(value)
    )
