r"""The messages of TSA-1, as they travel: canonical JSON, bytes in lower-case hex.

::

    1  Advertisement    a node's public keys
    2  KeyList          the keys of all nodes
    3  ShareMessage     a head that all nodes will see; as bulk a message per other node
    4  Ciphertexts      all heads; as bulk what the others sealed for this node
    5  UploadHead       the Merkle root over the masked chunks, which follow as bulk
    6  SurvivorList     the nodes whose uploads are summed
    7  Consent          a signature on that list
    8  ConsentList      at least ``threshold`` of them
    9  Reveal           shares: of a self mask *or* of a root, per node
    10 Result           the parts of the sum, for anyone to check

What is signed (by the node's Ed25519 key of the manifest) is::

    "tapestry-secagg/2\n" stage "\n" node "\n" || context || parts of 32 bytes

A *view* is the digest of a list as one node saw it: nodes that were shown different
lists notice, because views are inside signatures and keys.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from tapestry.curve25519 import check_x25519_key
from tapestry.encoding import canonical_json, decode_digest, digest
from tapestry.errors import ProtocolError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.mlkem768 import CIPHERTEXT_BYTES, KEY_BYTES, read_encapsulation_key
from tapestry.protocol.stages import RoundStage
from tapestry.schema import Digest, Name, Strict

PROTOCOL = "tapestry-secagg/2"
SHARE_BYTES = 33  # a number below the prime of ``tapestry.secagg.shamir``
BOX_BYTES = 2 * SHARE_BYTES + 16  # sealed shares of two secrets
PAIR_BYTES = CIPHERTEXT_BYTES + 64 + BOX_BYTES  # the most that one node sends another


def _check_key(key: str) -> str:
    try:
        check_x25519_key(bytes.fromhex(key))
    except ProtocolError as error:
        raise ValueError(error.args[0]) from None
    return key


def _check_kem_key(key: str) -> str:
    try:
        read_encapsulation_key(bytes.fromhex(key))
    except ProtocolError as error:
        raise ValueError(error.args[0]) from None
    return key


Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
HexKey = Annotated[Hex32, AfterValidator(_check_key)]  # X25519
Hex64 = Annotated[str, Field(pattern="^[0-9a-f]{128}$")]
HexShare = Annotated[str, Field(pattern="^0[01][0-9a-f]{64}$")]
HexKemKey = Annotated[  # ML-KEM-768
    str,
    Field(pattern="^[0-9a-f]*$", min_length=2 * KEY_BYTES, max_length=2 * KEY_BYTES),
    AfterValidator(_check_kem_key),
]
HexParts = Annotated[str, Field(pattern="^([0-9a-f]{64})+$", max_length=64 * 1000)]


class _OfNode(Protocol):
    @property
    def node(self) -> str: ...


_RowT = TypeVar("_RowT", bound=_OfNode)


def _in_order(rows: tuple[_RowT, ...]) -> tuple[_RowT, ...]:
    last = ""
    for row in rows:
        if row.node <= last:
            raise ValueError(f"{row.node!r} is out of order or appears twice")
        last = row.node
    return rows


Ordered = Annotated[tuple[_RowT, ...], AfterValidator(_in_order)]
"""Rows of distinct nodes, in order of name."""


def statement(
    stage: RoundStage, context: bytes, *, node: str, parts: Sequence[bytes]
) -> bytes:
    """Build the bytes that a node signs; every part takes 32 bytes."""
    head = f"{PROTOCOL}\n{stage}\n{node}\n".encode()
    return head + context + b"".join(parts)


class _Signed(Strict):
    """A message that one node signed."""

    node: Name
    signature: Hex64

    def _statement(self, context: bytes) -> bytes:
        raise NotImplementedError

    def signed_bytes(self, context: bytes) -> bytes:
        """Return what the node signs in the round of this context."""
        return self._statement(context)

    def verify(self, context: bytes, key: VerifyKey) -> None:
        """Check the signature.

        Raises:
            VerificationError: The signature is not this node's over this message and
                this round.
        """
        key.verify(self.signed_bytes(context), bytes.fromhex(self.signature))

    def signed(self, context: bytes, key: SigningKey) -> Self:
        """Return a copy that carries the signature."""
        signature = key.sign(self.signed_bytes(context)).hex()
        return self.model_copy(update={"signature": signature})


UNSIGNED = "0" * 128


class Advertisement(_Signed):
    """Message 1: the public halves of a node's keys of the round."""

    channel_key: HexKey
    kem_key: HexKemKey | None  # in a hybrid round
    mask_key: HexKey

    @property
    def public_keys(self) -> tuple[str, ...]:
        """All keys of the message."""
        kem = () if self.kem_key is None else (self.kem_key,)
        return (self.channel_key, self.mask_key, *kem)

    def _statement(self, context: bytes) -> bytes:
        parts = [bytes.fromhex(self.channel_key), bytes.fromhex(self.mask_key)]
        if self.kem_key is not None:
            parts.append(decode_digest(digest(bytes.fromhex(self.kem_key))))
        return statement(
            RoundStage.ADVERTISE_KEYS, context, node=self.node, parts=parts
        )


class KeyList(Strict):
    """Message 2: the keys of the nodes that advertised (U1), in order of name."""

    advertisements: Ordered[Advertisement]

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = [k for a in self.advertisements for k in a.public_keys]
        if len(set(keys)) != len(keys):
            raise ValueError("the same public key twice")
        return self


class ShareHead(_Signed):
    """The part of message 3 that all nodes see."""

    view: Digest  # of the key list
    commitment: Hex32  # to the seed of the self mask
    ciphertexts: Digest  # of all, ``tapestry.secagg.pair_messages``

    def _statement(self, context: bytes) -> bytes:
        parts = (
            decode_digest(self.view),
            bytes.fromhex(self.commitment),
            decode_digest(self.ciphertexts),
        )
        return statement(RoundStage.SHARE_KEYS, context, node=self.node, parts=parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareMessage:
    """Message 3: the head, and what the node sealed for every other node of U1."""

    head: ShareHead
    messages: bytes  # one after the other, in order of the receivers' names


class HeadList(Strict):
    """The heads of the nodes that shared (U2), in order of name."""

    heads: Ordered[ShareHead]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ciphertexts:
    """Message 4: all heads, and what the others sealed for one node."""

    heads: HeadList
    messages: bytes  # one after the other, in order of the senders' names


class UploadHead(_Signed):
    """Message 5 without its bulk."""

    view: Digest  # of the head list
    root: Digest  # Merkle root over the chunks

    def _statement(self, context: bytes) -> bytes:
        parts = (decode_digest(self.view), decode_digest(self.root))
        return statement(
            RoundStage.COLLECT_MASKED_INPUTS, context, node=self.node, parts=parts
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Message 5: the head, and the masked vector in chunks of 1 MiB."""

    head: UploadHead
    chunks: Sequence[bytes | memoryview]


class Survivor(Strict):
    """A node whose upload is summed, and which upload that is."""

    node: Name
    root: Digest


class SurvivorList(Strict):
    """Message 6: the nodes whose uploads are summed (U3), in order of name."""

    view: Digest  # of the head list
    survivors: Ordered[Survivor]

    @property
    def names(self) -> tuple[str, ...]:
        """The survivors' names, in order."""
        return tuple(s.node for s in self.survivors)


class Consent(_Signed):
    """Message 7: this node saw that list of survivors, and no other."""

    survivors: Digest

    def _statement(self, context: bytes) -> bytes:
        parts = (decode_digest(self.survivors),)
        return statement(
            RoundStage.CHECK_CONSISTENCY, context, node=self.node, parts=parts
        )


class ConsentList(Strict):
    """Message 8: the consents of distinct survivors, in order of name."""

    consents: Ordered[Consent]


class Reveal(_Signed):
    """Message 9: for each node of U2 a share of one of its two secrets, never both.

    What the node itself contributed to its masks with those that dropped out comes
    along: it follows from their roots as well, at more cost.
    """

    self_shares: dict[Name, HexShare]  # of those in the survivor list
    root_shares: dict[Name, HexShare]  # of those that dropped out before uploading
    contributions: dict[Name, Hex32]  # to masks with the latter, in a hybrid round

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.self_shares.keys() & self.root_shares.keys():
            raise ValueError("both secrets of one node")
        return self

    def _statement(self, context: bytes) -> bytes:
        revealed = {
            "contributions": self.contributions,
            "root_shares": self.root_shares,
            "self_shares": self.self_shares,
        }
        parts = (decode_digest(digest(canonical_json(revealed))),)
        return statement(RoundStage.UNMASK, context, node=self.node, parts=parts)


class Transcript(Strict):
    """The public record of a finished round: the signed messages, and the seeds.

    The seeds unmask the sum. Pair masks between survivors stay secret, so no
    single upload can be unmasked with them.
    """

    keys: KeyList
    heads: HeadList
    uploads: Ordered[UploadHead]  # of the survivors
    consents: ConsentList
    self_seeds: dict[Name, Hex32]  # of the survivors
    roots: dict[Name, Hex32]  # of those that dropped out
    # In a hybrid round, by survivor: what it had contributed to its masks with those
    # that dropped out, and the proof (``tapestry.secagg.contribution_proof``).
    contributions: dict[Name, HexParts]

    @property
    def survivors(self) -> SurvivorList:
        """The list that the nodes consented to."""
        rows = tuple(Survivor(node=u.node, root=u.root) for u in self.uploads)
        return SurvivorList(view=self.heads.digest, survivors=rows)


class Result(Strict):
    """Message 10: the transcript of the sum, its root, and the model after the step.

    The chunks of the sum follow as bulk.
    """

    transcript: Transcript
    sum_root: Digest  # Merkle root over the chunks of the sum
    model_digest: Digest  # of the parameters after the step


def require_subset(names: Iterable[str], allowed: Iterable[str], *, rule: str) -> None:
    """Refuse names that are not in the list before theirs.

    Args:
        names: The names of a list.
        allowed: The names of the list before it.
        rule: The condition that a name must meet, for the message: ``in the cohort``.

    Raises:
        ProtocolError: A name is not allowed; the message gives the first, and the
            rule.
    """
    extra = sorted(set(names) - set(allowed))
    if extra:
        raise ProtocolError(f"{extra[0]!r} is not {rule}", code="node-not-listed")
