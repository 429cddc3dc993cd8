"""Strict types for data from outside: one spelling of names, digests, numbers."""

from typing import Annotated

import pytest
from pydantic import Field

from tapestry.encoding import canonical_json
from tapestry.errors import ProtocolError
from tapestry.schema import Digest, FileName, Name, Plain, Printable, Strict
from tests.support.refusals import refused

DIGEST = "sha256:" + "0a" * 32


class _Sample(Strict):
    name: Name
    content: Digest
    factor: Plain
    path: FileName
    count: Annotated[int, Field(ge=1)]


GOOD = {
    "name": "italy",
    "content": DIGEST,
    "factor": "0.5",
    "path": "a/b.txt",
    "count": 1,
}


def test_a_model_is_read_as_it_was_printed() -> None:
    sample = _Sample.model_validate(GOOD)
    assert _Sample.decode(sample.encode()) == sample
    assert _Sample.decode(canonical_json(GOOD)) == sample
    assert sample.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Italy"),
        ("name", "italy\n"),
        ("name", "-italy"),
        ("name", "a" * 64),
        ("name", ""),
        ("name", "italy."),
        ("name", "con"),
        ("name", "com1.txt"),
        ("content", DIGEST.upper()),
        ("content", DIGEST[:-1]),
        ("content", DIGEST.removeprefix("sha256:")),
        ("factor", "0.50"),
        ("factor", ".5"),
        ("factor", "5e-1"),
        ("factor", "\uff15"),
        ("factor", 5),
        ("path", "../a"),
        ("path", "/a"),
        ("path", "a//b"),
        ("path", "a\\b"),
        ("path", "a "),
        ("path", "a/nul.txt"),
        ("path", "a" * 121),
        ("count", 0),
        ("count", True),
        ("count", "1"),
        ("count", None),
    ],
    ids=str,
)
def test_another_spelling_is_refused(field: str, value: object) -> None:
    with refused(ProtocolError, "schema-violated", match=f"_Sample {field}"):
        _Sample.decode(canonical_json({**GOOD, field: value}))


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_missing_field_is_refused_by_name(field: str) -> None:
    rest = {name: value for name, value in GOOD.items() if name != field}
    with refused(ProtocolError, "schema-violated", match=f"_Sample {field}"):
        _Sample.decode(canonical_json(rest))


def test_an_unknown_field_is_refused() -> None:
    with refused(ProtocolError, "schema-violated", match="_Sample more"):
        _Sample.decode(canonical_json({**GOOD, "more": 1}))


def test_a_document_over_the_limit_is_refused() -> None:
    body = canonical_json(GOOD)
    with refused(ProtocolError, "json-too-large"):
        _Sample.decode(body, limit=len(body) - 1)


def test_a_model_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(_Sample.model_validate(GOOD), "name", "spain")  # noqa: B010


class _Free(Strict):
    text: Annotated[Printable, Field(max_length=60)]


@pytest.mark.parametrize(
    "text",
    [
        "Côte d\u2019Ivoire",
        "\u65e5\u672c",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "a b",
        "",
    ],
    ids=["Latin", "Han", "a joiner between letters", "a space", "empty"],
)
def test_free_text_of_any_script_is_taken(text: str) -> None:
    assert _Free.decode(_Free(text=text).encode()).text == text


@pytest.mark.parametrize(
    "text",
    [
        "italy\nspain 1.0",
        "italy\r",
        "a\tb",
        "\x1b[2J",
        "a\u2028b",
        "a\u202eb",
        "a\u00adb",
        "a\u200b",
        "\u200ca",
        "a\u200c\u200cb",
        "a\u00a0b",
        " a",
        "a ",
        "\ufeffa",
        "\ue000",
    ],
)
def test_free_text_that_forges_a_row_or_hides_is_refused(text: str) -> None:
    """It is printed in tables and pages, next to what the program says."""
    with refused(ProtocolError, "schema-violated", match="_Free text: "):
        _Free.decode(canonical_json({"text": text}))
