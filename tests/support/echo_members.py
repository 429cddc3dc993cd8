"""Members without a log: their node keys by name, and the identity that each proves."""

import hashlib
from collections.abc import Mapping

from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tapestry.protocol.connection_proof import ConnectionClaim
from tapestry.protocol.messages import (
    HelloRequest,
    Identity,
    Message,
    encode_message,
    expect_body,
)
from tapestry.protocol.secagg_messages import PROTOCOL
from tapestry.software_digest import software_digest

NAMES = ("be", "de", "fr", "it")
GENESIS = "sha256:" + "0" * 64


def node_key(name: str) -> SigningKey:
    """Make the same key for the same name in every process."""
    seed = hashlib.sha256(name.encode()).digest()
    return SigningKey(
        name=f"{name}.example/node", algorithm=Algorithm.SIGNATURE, seed=seed
    )


def node_keys() -> Mapping[str, VerifyKey]:
    """Return the node keys of all members."""
    return {name: node_key(name).verify_key for name in NAMES}


def identity(
    name: str,
    request: Message,
    connection: str,
    *,
    key: SigningKey | None = None,
    other: SigningKey | None = None,
    genesis: str = GENESIS,
) -> Message:
    """Answer a hello as a member, by its own key unless another is given."""
    nonce = expect_body(request, HelloRequest).nonce
    claim = ConnectionClaim(
        genesis=genesis, node=name, connection=connection, nonce=nonce
    )
    return encode_message(
        Identity(
            name=name,
            proof=claim.prove(key or node_key(name)),
            other_proof=None if other is None else claim.prove(other),
            protocol=PROTOCOL,
            software=software_digest(),
            size=0,
            lacks=None,
            checkpoint=None,
            asks=(),
            held_out=None,
            refuses=None,
            rests=False,
            epsilon_limit="8",
        )
    )
