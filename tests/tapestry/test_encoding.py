"""One spelling: printed as RFC 8785 says, and nothing else is read."""

import unicodedata
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import ProtocolError
from tapestry.protocol.messages import Kind

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
    "value",
    [1.0, 2**53, -(2**53), "e\u0301", "\ud800", {1: 2}, b"bytes", {"e\u0301": 1}],
)
def test_values_without_a_spelling_are_refused(value: Any) -> None:
    with pytest.raises(ProtocolError):
        canonical_json(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" 1",
        b"1\n",
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a": 1}',
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"NaN",
        b'"\\u0061"',
        b'"\\u001F"',
        b'"\xff"',
        b"[" * 2000,
        b"1" * 5000,
    ],
)
def test_another_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_json(data)


def test_what_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match="over the limit of 3"):
        decode_json(b"1234", limit=3)
