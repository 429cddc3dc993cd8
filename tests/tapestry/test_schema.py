"""Strict types for data from outside: one spelling of names, digests, numbers."""

from typing import Annotated

import pytest
from pydantic import Field

from tapestry.encoding import canonical_json
from tapestry.errors import ProtocolError
from tapestry.schema import Digest, FileName, Name, Plain, Strict

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
        ("count", 0),
        ("count", True),
        ("count", "1"),
        ("count", None),
    ],
    ids=str,
)
def test_another_spelling_is_refused(field: str, value: object) -> None:
    with pytest.raises(ProtocolError, match=f"_Sample {field}"):
        _Sample.decode(canonical_json({**GOOD, field: value}))


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_missing_field_is_refused_by_name(field: str) -> None:
    rest = {name: value for name, value in GOOD.items() if name != field}
    with pytest.raises(ProtocolError, match=f"_Sample {field}"):
        _Sample.decode(canonical_json(rest))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ProtocolError, match="_Sample more"):
        _Sample.decode(canonical_json({**GOOD, "more": 1}))


def test_a_document_over_the_limit_is_refused() -> None:
    body = canonical_json(GOOD)
    with pytest.raises(ProtocolError):
        _Sample.decode(body, limit=len(body) - 1)


def test_a_model_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(_Sample.model_validate(GOOD), "name", "spain")  # noqa: B010
