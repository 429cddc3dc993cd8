"""Proofs of possession: a key signs the request that names it.

A member signs with four keys, and its root key vouches for the other three. So that no
institution claims the key of another, each of the three signs as well::

    "tapestry-possession/1" LF purpose LF federation LF name LF digest LF

where the digest is that of the request. A key that takes the place of another signs::

    "tapestry-rotation/1" LF purpose LF federation LF name LF key LF

No parser of notes, cosignatures, events,
connection proofs or messages takes bytes that start with either line.
"""

from collections.abc import Mapping

from tapestry.errors import VerificationError
from tapestry.keys import SigningKey, VerifyKey
from tapestry_governance.events.member_events import (
    KeyRotated,
    MembershipRequest,
    Possession,
)

PURPOSES = ("node", "witness", "community")
_DOMAIN = "tapestry-possession/1"
_ROTATION = "tapestry-rotation/1"


def possession_statement(
    request: MembershipRequest, *, purpose: str, federation: str
) -> bytes:
    """Return the bytes that the key for a purpose signs."""
    lines = (_DOMAIN, purpose, federation, request.name, request.digest)
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def prove_possession(
    request: MembershipRequest, keys: Mapping[str, SigningKey], *, federation: str
) -> Possession:
    """Sign a request by the keys for node, witness and community."""
    return Possession(
        **{
            purpose: keys[purpose]
            .sign(possession_statement(request, purpose=purpose, federation=federation))
            .hex()
            for purpose in PURPOSES
        }
    )


def check_possession(
    request: MembershipRequest, possession: Possession, *, federation: str
) -> None:
    """Require the signatures of a request by the three keys that it names.

    Guarantees:
        Whoever made the signatures held each key, for this purpose, name and
        federation. The root key is not among them: it signs what carries the request.

    Raises:
        VerificationError: A signature is not by the key that the request names.
    """
    for purpose in PURPOSES:
        key = VerifyKey.parse(getattr(request, purpose))
        signed = possession_statement(request, purpose=purpose, federation=federation)
        try:
            key.verify(signed, bytes.fromhex(getattr(possession, purpose)))
        except VerificationError:
            raise VerificationError(
                f"{request.name!r} does not show that it holds its {purpose} key"
                f" {key.keyid}",
                code="possession-not-proven",
            ) from None


def rotation_statement(purpose: str, key: str, *, name: str, federation: str) -> bytes:
    """Return the bytes that a member's new key signs."""
    lines = (_ROTATION, purpose, federation, name, key)
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def check_rotation(body: KeyRotated, *, by: str, name: str, federation: str) -> None:
    """Require the signature of a new key by ``by``: itself, or the node's key.

    Raises:
        VerificationError: It does not hold.
    """
    key = VerifyKey.parse(by)
    signed = rotation_statement(
        body.purpose, body.key, name=name, federation=federation
    )
    try:
        key.verify(signed, bytes.fromhex(body.possession))
    except VerificationError:
        raise VerificationError(
            f"{name!r} does not show that it holds its new {body.purpose} key",
            code="possession-not-proven",
        ) from None
