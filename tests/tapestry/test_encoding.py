"""One spelling: printed as RFC 8785 says, and nothing else is read."""

import json
import unicodedata
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import ProtocolError
from tapestry.protocol.messages import Kind
from tests.support.refusals import refused

texts = st.text(max_size=8).filter(lambda t: unicodedata.is_normalized("NFC", t))
ascii_texts = st.text(st.characters(max_codepoint=127), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | texts
    | ascii_texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts | ascii_texts, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(value=values)
def test_json_is_spelled_as_the_standard_says(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(value=values)
def test_reading_is_the_inverse_of_printing(value: Any) -> None:
    assert decode_json(canonical_json(value)) == value


def test_keys_are_in_order_of_utf_16() -> None:
    value = {"ﬃ": 1, "𝄞": 2, "a": 3}
    assert canonical_json(value) == '{"a":3,"𝄞":2,"ﬃ":1}'.encode()


def test_names_of_an_enumeration_print_as_their_values() -> None:
    assert canonical_json({"kind": Kind.HELLO}) == b'{"kind":"hello"}'


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (1.0, "json-type-unsupported"),
        (2**53, "json-number-invalid"),
        (-(2**53), "json-number-invalid"),
        ("e\u0301", "text-not-normalized"),
        ("\ud800", "text-not-utf8"),
        ({1: 2}, "json-type-unsupported"),
        (b"bytes", "json-type-unsupported"),
        ({"e\u0301": 1}, "text-not-normalized"),
    ],
)
def test_values_without_a_spelling_are_refused(value: Any, code: str) -> None:
    with refused(ProtocolError, code):
        canonical_json(value)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json-invalid"),
        (b" 1", "json-not-canonical"),
        (b"1\n", "json-not-canonical"),
        (b'{"a":1,"a":1}', "json-not-canonical"),
        (b'{"b":1,"a":1}', "json-not-canonical"),
        (b'{"a": 1}', "json-not-canonical"),
        (b"1.0", "json-type-unsupported"),
        (b"1e3", "json-type-unsupported"),
        (b"-0", "json-not-canonical"),
        (b"01", "json-invalid"),
        (b"NaN", "json-type-unsupported"),
        (b'"\\u0061"', "json-not-canonical"),
        (b'"\\u001F"', "json-not-canonical"),
        (b'"\xff"', "json-invalid"),
        (b"[" * 2000, "json-invalid"),
        (b"1" * 5000, "json-invalid"),
    ],
)
def test_another_spelling_is_refused(data: bytes, code: str) -> None:
    with refused(ProtocolError, code):
        decode_json(data)


def test_what_is_too_long_is_refused_before_it_is_read() -> None:
    with refused(ProtocolError, "json-too-large", match="limit of 3"):
        decode_json(b"1234", limit=3)


def _reference(data: bytes) -> Any:
    """Decode canonical JSON as the library of RFC 8785 has it, and no faster."""
    try:
        value = json.loads(data)
        if rfc8785.dumps(value) != data or _breaks_a_restriction(value, 0):
            raise ProtocolError("refused")
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise ProtocolError("refused") from error
    return value


def _breaks_a_restriction(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    else:
        inner = value if isinstance(value, list) else []
    large = isinstance(value, int) and not -(2**53) < value < 2**53
    text = isinstance(value, str) and not unicodedata.is_normalized("NFC", value)
    if depth > 32 or isinstance(value, float) or large or text:
        return True
    return any(_breaks_a_restriction(each, depth + 1) for each in inner)


_pieces = st.sampled_from(
    [
        *('"', "{", "}", "[", "]", ",", ":", "0", "-1", "1.5", "1e2", "true", "null"),
        *(" ", "\\n", '"a":', '"b":1', "é", "e\u0301", "\\ud800", "\\u00e9", "\ufeff"),
        *(
            "9007199254740991",
            "9007199254740992",
            "NaN",
            "\x00",
            "\x7f",
            "\\/",
            "[" * 40,
        ),
    ]
)


@pytest.mark.slow
@settings(max_examples=400)
@given(value=values, data=st.data())
def test_a_damaged_spelling_is_refused_just_where_the_library_refuses_it(
    value: Any, data: st.DataObject
) -> None:
    text = rfc8785.dumps(value).decode()
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(len(text), start + 4)))
        text = text[:start] + data.draw(_pieces) + text[stop:]
    try:
        encoded = text.encode()
        expected = _reference(encoded)
    except (ProtocolError, UnicodeEncodeError):
        with pytest.raises(ProtocolError):
            decode_json(text.encode("utf-8", "surrogatepass"))
    else:
        assert decode_json(encoded) == expected
        assert repr(decode_json(encoded)) == repr(expected)  # 1 is not true


@given(depth=st.integers(28, 36), inner=st.sampled_from([[], {}, 1, "a", None]))
def test_nesting_ends_at_one_depth_in_both_directions(depth: int, inner: Any) -> None:
    value = inner
    for at in range(depth):
        value = [value] if at % 2 else {"a": value}
    data = rfc8785.dumps(value)
    if depth > 32:
        with refused(ProtocolError, "json-too-deep", match="32 levels"):
            decode_json(data)
        with refused(ProtocolError, "json-too-deep", match="32 levels"):
            canonical_json(value)
    else:
        assert decode_json(data) == value
        assert canonical_json(value) == data
