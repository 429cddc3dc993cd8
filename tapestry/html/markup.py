"""Builder of HTML in which text is always escaped.

A page is built from `element` alone. Whatever is a plain string, child or
attribute, is escaped; only a `Markup` passes as it is, and only this module
makes one out of strings. Characters that a page cannot hold, or that would turn the
text around them, are shown by their number instead.
"""

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9:-]*")
_VOID = frozenset({"meta", "br", "hr", "link"})
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls, but for tab and line ends
    "\u202a-\u202e\u2066-\u2069"  # controls that set the direction of what follows
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"  # no characters
)
_NO_ATTRIBUTES: Mapping[str, str | int | float] = {}

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Markup:
    """HTML that is safe to put into a page as it is."""

    text: str

    def __bool__(self) -> bool:
        return bool(self.text)


Child = str | Markup


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table, with its own style class."""

    kind: str
    content: Child


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
        f' {key}="{html.escape(visible(_number(value)))}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children).text}</{name}>")


def joined(*children: Child) -> Markup:
    """Put children behind one another."""
    return Markup(
        "".join(
            child.text if isinstance(child, Markup) else html.escape(visible(child))
            for child in children
        )
    )


def visible(text: str) -> str:
    """Spell characters without a shape as ``[U+0007]``."""
    return _UNSHOWN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def outside(name: str, text: str, *, kind: str, language: str | None = None) -> Markup:
    """Write text of unknown origin and direction, unedited, with its line breaks.

    ``language`` is a BCP 47 tag, empty if not known, None if it is that of the page.
    """
    tag = {} if language is None else {"lang": language}
    return element(name, {"class": kind, "dir": "auto", **tag}, text)


def link(path: str, *children: Child) -> Markup:
    """Write a link to a part of this page (``#part``) or to a file beside it.

    Raises:
        ValueError: The path is not relative, or it leaves the folder of the page.
    """
    if path.startswith("#"):
        return element("a", {"href": path}, *children)
    parts = path.split("/")
    if not path or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"not a path below the page: {path!r}")
    target = quote(path.encode("utf-8", "surrogatepass"), safe="/")
    return element("a", {"href": target}, *children)


def paragraphs(*texts: Child) -> Markup:
    """Write each text as a paragraph."""
    return joined(*(element("p", {}, text) for text in texts))


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Child | Cell]],
    *,
    text_columns: int = 1,
    kind: str = "",
) -> Markup:
    """Write a table; the first column names the row.

    On a narrow screen each row of a table with more than two columns becomes a block,
    in which every cell stands under the name of its column. The roles are spelled out
    because some browsers forget them when a table is laid out as blocks.

    So many ``text_columns`` from the left hold text; the others hold numbers and are
    set flush right.
    """
    head = [
        element(
            "th",
            {"scope": "col", "role": "columnheader", "class": _side(n, text_columns)},
            cell,
        )
        for n, cell in enumerate(header)
    ]
    body = [_row(header, row, text_columns) for row in rows]
    names = [kind, "stack" if len(header) > 2 else ""]
    return element(
        "div",
        {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption},
        element(
            "table",
            {"role": "table", "class": " ".join(filter(None, names)) or "plain-table"},
            element("caption", {}, caption),
            element(
                "thead",
                {"role": "rowgroup"},
                element("tr", {"role": "row"}, *head),
            ),
            element("tbody", {"role": "rowgroup"}, *body),
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


def _row(
    header: Sequence[str], row: Sequence[Child | Cell], text_columns: int
) -> Markup:
    cells = []
    for place, cell in enumerate(row):
        shown = cell if isinstance(cell, Cell) else Cell("", cell)
        side = f"{_side(place, text_columns)} {shown.kind}".rstrip()
        if place == 0:
            named = {"scope": "row", "role": "rowheader", "class": side}
            cells.append(element("th", named, shown.content))
        else:
            # One child, because a stacked cell puts its label and its child apart.
            labelled = {"role": "cell", "data-label": header[place], "class": side}
            cells.append(element("td", labelled, element("span", {}, shown.content)))
    return element("tr", {"role": "row"}, *cells)


def _side(place: int, text_columns: int) -> str:
    return "text" if place < text_columns else "number"


def _number(value: str | float) -> str:
    return (
        f"{value:.2f}".rstrip("0").rstrip(".")
        if isinstance(value, float)
        else str(value)
    )
