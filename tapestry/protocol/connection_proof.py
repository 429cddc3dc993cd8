r"""Proof that a transport's connection is a member's: a signature over a fresh nonce.

A transport names its connections by itself, and whoever runs or reaches it can open one
under any name. So the coordinator greets each connection with a nonce of its own, and
takes a member's name from the answer alone: a signature by the member's node key over
::

    "tapestry-connection/1" NUL genesis NUL node NUL connection NUL || nonce

``genesis`` is the digest of the log's first entry, which names the federation, the
log's key and the coordinator. ``connection`` is the transport's name for the
connection, by which each side knows it without the other: the member from the
transport, not from the greeting. So an answer that another connection passes on, or one
of another federation or greeting, proves nothing.

Guarantees:
    No two claims have the same bytes: a NUL is in none of the four texts, and the nonce
    has 32 bytes. What the node key signs elsewhere has no NUL after this first line:
    a note's text holds no control character but newlines, an envelope begins with
    ``DSSEv1``, a message of TSA-1 with its own protocol's name and a newline.
"""

import secrets
from dataclasses import dataclass

from tapestry.keys import SigningKey, VerifyKey

DOMAIN = "tapestry-connection/1"
NONCE_BYTES = 32


def new_nonce() -> str:
    """Draw a nonce for one greeting of one connection, in hex."""
    return secrets.token_hex(NONCE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClaim:
    """The claim of a member that a connection is its own."""

    genesis: str
    node: str
    connection: str
    nonce: str  # in hex

    def statement(self) -> bytes:
        """Build the bytes that the member's node key signs."""
        texts = (DOMAIN, self.genesis, self.node, self.connection)
        head = b"".join(text.encode() + b"\0" for text in texts)
        return head + bytes.fromhex(self.nonce)

    def prove(self, key: SigningKey) -> str:
        """Sign the claim; the signature in hex."""
        return key.sign(self.statement()).hex()

    def verify(self, proof: str, key: VerifyKey) -> None:
        """Check a proof.

        Raises:
            VerificationError: The key did not sign this claim.
        """
        key.verify(self.statement(), bytes.fromhex(proof))
