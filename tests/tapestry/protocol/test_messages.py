"""Messages: a closed list of kinds, and bodies of one spelling."""

import pytest

from tapestry.errors import ProtocolError
from tapestry.protocol.messages import Kind, Message, Reason, decode_body
from tests.support.refusals import refused


def test_the_size_of_a_message_is_that_of_its_payload() -> None:
    message = Message(
        kind=Kind.MASKED_INPUT, body=b"{}", attachments=[b"abc", memoryview(bytes(8))]
    )
    assert message.size == 13


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "json-invalid"),
        (b"{", "json-invalid"),
        (b'{"a": 1}', "json-not-canonical"),
        (b'{"a":1}\n', "json-not-canonical"),
        (b'{"a":1.5}', "json-type-unsupported"),
    ],
)
def test_a_body_in_another_spelling_is_refused(body: bytes, code: str) -> None:
    with refused(ProtocolError, code):
        decode_body(Message(kind=Kind.HELLO, body=body))


def test_the_words_on_the_wire_are_the_closed_list() -> None:
    """A word that is added here is a new way out of a node; think twice."""
    assert {kind.value for kind in Kind} == {
        *("hello", "identity", "cosign", "cosignature"),
        *("advertise_keys", "advertised_keys", "share_keys", "shared_keys"),
        *("collect_masked_inputs", "masked_input", "check_consistency", "consent"),
        *("unmask", "unmasking_shares", "apply_result", "check_chunk", "receipt"),
        *("publish_adapter", "publication", "refusal", "show_held_out"),
    }
    assert all(reason.value.replace("_", "").isalpha() for reason in Reason)
