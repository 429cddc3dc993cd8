"""Claims of connections: each text counts, and nothing else is signed alike."""

from dataclasses import replace
from typing import Any

import pytest

from tapestry.encoding import encode_base64
from tapestry.errors import ProtocolError, VerificationError
from tapestry.keys import Algorithm, SigningKey
from tapestry.protocol.connection_proof import DOMAIN, ConnectionClaim, new_nonce
from tapestry.protocol.secagg_messages import UNSIGNED, Advertisement, statement
from tapestry.protocol.stages import RoundStage
from tapestry.tlog import note
from tapestry_governance.events.envelope import pre_authentication_encoding
from tests.support.refusals import refused

SEED = bytes(range(32))
KEY = SigningKey(name="fr.example/node", algorithm=Algorithm.SIGNATURE, seed=SEED)
CLAIM = ConnectionClaim(
    genesis="sha256:" + "1" * 64, node="fr", connection="17", nonce="2" * 64
)


def test_a_proof_holds_for_its_claim() -> None:
    CLAIM.verify(CLAIM.prove(KEY), KEY.verify_key)


def test_the_bytes_are_those_that_are_documented() -> None:
    texts = b"tapestry-connection/1\0sha256:%b\0fr\x0017\0" % (b"1" * 64)
    assert CLAIM.statement() == texts + b"\x22" * 32


@pytest.mark.parametrize(
    "change",
    [
        {"genesis": "sha256:" + "3" * 64},
        {"node": "de"},
        {"connection": "18"},
        {"nonce": "4" * 64},
        {"node": "f", "connection": "r17"},
        {"node": "fr17", "connection": ""},
    ],
    ids=str,
)
def test_a_proof_holds_for_no_other_claim(change: dict[str, Any]) -> None:
    """Another federation, name, connection or greeting; or the same text, cut anew."""
    other = replace(CLAIM, **change)
    assert other.statement() != CLAIM.statement()
    with refused(VerificationError, "signature-invalid"):
        other.verify(CLAIM.prove(KEY), KEY.verify_key)


def test_the_proof_of_another_key_does_not_hold() -> None:
    other = SigningKey.generate("fr.example/node")
    with refused(VerificationError, "signature-invalid"):
        CLAIM.verify(CLAIM.prove(other), KEY.verify_key)


def test_nonces_are_thirty_two_bytes_and_do_not_repeat() -> None:
    nonces = {new_nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert {len(bytes.fromhex(nonce)) for nonce in nonces} == {32}


def test_a_claim_is_no_note() -> None:
    """Also with a nonce whose bytes are text that ends as a note does."""
    claim = replace(CLAIM, nonce=(b"x" * 31 + b"\n").hex())
    with refused(ProtocolError, "note-malformed", match="control character"):
        note.check_text(claim.statement().decode())
    blob = encode_base64(KEY.verify_key.id + bytes.fromhex(claim.prove(KEY)))
    line = f"\n\u2014 {KEY.name} {blob}\n".encode()
    with refused(ProtocolError, "note-malformed", match="control character"):
        note.parse(claim.statement() + line)


def _signed_elsewhere() -> dict[str, bytes]:
    """What a node key signs, and what a thief could make a parser read as that."""
    context = bytes(32)
    message = Advertisement(
        node="fr",
        signature=UNSIGNED,
        channel_key="0" * 64,
        kem_key=None,
        mask_key="0" * 64,
    )
    return {
        "message": message.signed_bytes(context),
        "envelope": pre_authentication_encoding(b"{}"),
        "envelope of a claim": pre_authentication_encoding(CLAIM.statement()),
        "note": b"origin.example/log\n5\nroot\n",
        "cosignature": b"cosignature/v1\ntime 5\norigin\n5\nroot\n",
    }


@pytest.mark.parametrize("kind", list(_signed_elsewhere()))
def test_what_the_key_signs_elsewhere_proves_no_connection(kind: str) -> None:
    signed = _signed_elsewhere()[kind]
    assert not signed.startswith(DOMAIN.encode())
    with refused(VerificationError, "signature-invalid"):
        CLAIM.verify(KEY.sign(signed).hex(), KEY.verify_key)
    with refused(VerificationError, "signature-invalid"):
        KEY.verify_key.verify(signed, bytes.fromhex(CLAIM.prove(KEY)))


@pytest.mark.parametrize("stage", list(RoundStage), ids=str)
def test_no_message_of_a_round_begins_like_a_claim(stage: RoundStage) -> None:
    """A round's statements name its protocol and end that line; a claim has a NUL."""
    signed = statement(stage, bytes(32), node="fr", parts=[bytes(32)])
    head, _, _ = signed.partition(b"\n")
    assert b"\0" not in head
    assert b"\0" in CLAIM.statement().partition(b"\n")[0]
