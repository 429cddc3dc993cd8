"""States of a node in a round, one type for each step of ``client``.

A state holds what later stages need and nothing else: mask keys are gone once the
upload was sent, shares once they were revealed. Secrets do not appear in ``repr``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from tapestry.errors import ProtocolError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Advertisement, ShareHead, SurvivorList
from tapestry.secagg.masks import Mask
from tapestry.secagg.pair_messages import contributes, message_size
from tapestry.secagg.quantization import Encoding
from tapestry.secagg.requirements import ClientProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """A manifest, read: what client and server compute from it alike."""

    manifest: RoundManifest
    context: bytes
    roster: Mapping[str, VerifyKey]  # in order of name
    places: Mapping[str, int]  # share numbers: places in the manifest, from 1
    encoding: Encoding

    @property
    def hybrid(self) -> bool:
        """True if keys are agreed on by X25519 and ML-KEM-768 together."""
        return self.manifest.post_quantum == "mlkem768"

    def contributes(self, node: str, other: str) -> bool:
        """Return whether a node contributes to its mask with another."""
        return self.hybrid and contributes(self.places[node], self.places[other])

    def message_size(self, sender: str, receiver: str) -> int:
        """Return the bytes that the message of one node to another takes."""
        contributing = self.contributes(sender, receiver)
        return message_size(hybrid=self.hybrid, contributing=contributing)

    def name_of(self, identity: SigningKey) -> str:
        """Return the participant that has a key.

        Raises:
            ProtocolError: No participant has it.
        """
        for name, key in self.roster.items():
            if key == identity.verify_key:
                return name
        raise ProtocolError(
            f"no participant of round {self.manifest.round_number} has the key of"
            f" {identity.name!r}",
            code="node-not-in-cohort",
        )

    def receivers(self, node: str, names: Iterable[str]) -> list[str]:
        """List the nodes to whose masks with it a node contributes, in order."""
        return [n for n in names if n != node and self.contributes(node, n)]

    def check_kem_key(self, message: Advertisement) -> None:
        """Require an ML-KEM key in a hybrid round, and none in another.

        Raises:
            ProtocolError: There is no such key where one belongs, or one too many.
        """
        if (message.kem_key is not None) is not self.hybrid:
            found = "no" if message.kem_key is None else "an"
            raise ProtocolError(
                f"{message.node!r} advertised {found} ML-KEM key in a round with"
                f" post_quantum {self.manifest.post_quantum!r}",
                code="kem-key-set-differs",
            )

    @classmethod
    def of(cls, manifest: RoundManifest) -> Self:
        """Read a manifest.

        Raises:
            ProtocolError: A participant's key is malformed, or the encoding does not
                fit 31 bits.
        """
        roster = {p.name: VerifyKey.parse(p.key) for p in manifest.participants}
        return cls(
            manifest=manifest,
            context=manifest.context,
            roster=roster,
            places={name: place for place, name in enumerate(roster, 1)},
            encoding=Encoding.of(manifest),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRound:
    """The part of a node's state that stays the same for the whole round."""

    cohort: Cohort
    node: str
    identity: SigningKey
    min_cohort: int
    progress: ClientProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """The secrets that a node draws for one round."""

    channel: bytes = field(repr=False)  # X25519, seals shares
    root: bytes = field(repr=False)  # of what is rebuilt if the node drops out
    seed: bytes = field(repr=False)  # of the self mask
    polynomials: tuple[bytes, bytes] = field(repr=False)  # seeds of the two sharings


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldShares:
    """One node's shares of two secrets, of another node or of itself."""

    seed: bytes = field(repr=False)
    root: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """The X25519 secrets that two nodes agreed on."""

    channel: bytes = field(repr=False)
    mask: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysAdvertised:
    """Message 1 was sent."""

    round: ClientRound
    secrets: Secrets = field(repr=False)
    advertisement: Advertisement


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysShared:
    """Message 3 was sent."""

    round: ClientRound
    secrets: Secrets = field(repr=False)
    view: bytes  # of the key list
    agreed: Mapping[str, Agreed] = field(repr=False)
    head: ShareHead
    own: HeldShares


@dataclass(frozen=True, slots=True, kw_only=True)
class MasksReady:
    """Message 4 was accepted; the masks are fixed."""

    round: ClientRound
    masks: tuple[Mask, ...] = field(repr=False)
    held: Mapping[str, HeldShares] = field(repr=False)  # of U2, its own included
    contributed: Mapping[str, bytes] = field(repr=False)  # by itself, for masks
    view: str  # of the head list


@dataclass(frozen=True, slots=True, kw_only=True)
class InputMasked:
    """Message 5 was sent; mask keys and self seed are gone.

    A contribution alone gives no mask: that takes an X25519 secret of the two nodes.
    """

    round: ClientRound
    held: Mapping[str, HeldShares] = field(repr=False)
    contributed: Mapping[str, bytes] = field(repr=False)
    view: str
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyChecked:
    """Message 7 was sent."""

    round: ClientRound
    held: Mapping[str, HeldShares] = field(repr=False)
    contributed: Mapping[str, bytes] = field(repr=False)  # with the lost nodes only
    survivors: SurvivorList
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesRevealed:
    """Message 9 was sent; no secret is left."""

    round: ClientRound
    survivors: SurvivorList
    root: str
