"""The channel of shares between two nodes, and the keys that a root stands for.

What travels is a ``pair_messages.PairMessage``. In a hybrid round its key is derived
from an X25519 and an ML-KEM-768 secret, so that both must be broken to open it.
"""

from dataclasses import dataclass, field
from typing import TypedDict

from tapestry.errors import ProtocolError
from tapestry.mlkem768 import DecapsulationKey, encapsulate
from tapestry.protocol.secagg_messages import SHARE_BYTES, Advertisement
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.key_schedule import (
    channel_key,
    contribution,
    contribution_commitment,
    kem_seed,
    mask_secret,
    public_key,
    seal,
    unseal,
    wrap,
)
from tapestry.secagg.pair_messages import PairMessage, commitment_in
from tapestry.secagg.shamir import decode_share


class _Ends(TypedDict):
    context: bytes
    sender: str
    receiver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RootKeys:
    """The private keys that follow from a root."""

    mask: bytes = field(repr=False)  # X25519
    kem: DecapsulationKey | None = field(repr=False)  # in a hybrid round


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedShares:
    """Two shares of a sender, and its contribution to the mask of both nodes."""

    seed: bytes = field(repr=False)
    root: bytes = field(repr=False)
    contributed: bytes = field(repr=False)  # empty where it has none to make


def own_keys(root: bytes, cohort: Cohort, *, node: str) -> RootKeys:
    """Derive a node's keys from its root."""
    context = cohort.context
    kem = None
    if cohort.hybrid:
        kem = DecapsulationKey(kem_seed(root, context, node=node))
    return RootKeys(mask=mask_secret(root, context, node=node), kem=kem)


def is_root(root: bytes, cohort: Cohort, advertised: Advertisement) -> bool:
    """Return whether the keys that a node advertised follow from a root."""
    keys = own_keys(root, cohort, node=advertised.node)
    return (
        public_key(keys.mask).hex() == advertised.mask_key
        and (keys.kem and keys.kem.public.hex()) == advertised.kem_key
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareChannel:
    """The way of one node to another in message 3: its keys, and both ends of it."""

    cohort: Cohort
    sender: str
    receiver: str
    view: bytes  # of the key list

    def seal(
        self,
        shares: tuple[bytes, bytes],
        *,
        shared: bytes,
        kem_key: str | None,
        root: bytes,
    ) -> bytes:
        """Seal shares of seed and root, and wrap the sender's contribution.

        Args:
            shares: Those of the seed and of the root.
            shared: The X25519 secret of the two nodes.
            kem_key: The receiver's ML-KEM key, in a hybrid round.
            root: The sender's.
        """
        drawn = kem = committed = wrapped = b""
        if kem_key is not None:
            drawn, kem = encapsulate(bytes.fromhex(kem_key))
        if self.cohort.contributes(self.sender, self.receiver):
            own = self.own_contribution(root)
            committed, wrapped = self._commit(own), self._wrap(own, drawn)
        clear = kem + committed + wrapped
        key = self._key(shared + drawn + kem)
        return clear + seal(key, b"".join(shares), clear=clear, **self._ends)

    def open(
        self, data: bytes, *, shared: bytes, kem: DecapsulationKey | None
    ) -> OpenedShares:
        """Open what the sender sealed.

        Raises:
            ProtocolError: The message has another size or does not open, a share is
                malformed, or the contribution is not the one committed to.
        """
        message = self.read(data)
        drawn = kem.decapsulate(message.kem) if kem else b""
        key = self._key(shared + drawn + message.kem)
        plaintext = unseal(key, message.box, clear=message.clear, **self._ends)
        seed, root = plaintext[:SHARE_BYTES], plaintext[SHARE_BYTES:]
        decode_share(seed)
        decode_share(root)
        contributed = message.wrapped and self._wrap(message.wrapped, drawn)
        if contributed and self._commit(contributed) != message.committed:
            raise ProtocolError(
                f"{self.sender!r} had committed to another contribution to its mask"
                f" with {self.receiver!r}",
                code="contribution-differs",
            )
        return OpenedShares(seed=seed, root=root, contributed=contributed)

    def read(self, data: bytes) -> PairMessage:
        """Read what is in the clear.

        Raises:
            ProtocolError: The message has another size than one between these two.
        """
        contributing = self.cohort.contributes(self.sender, self.receiver)
        try:
            return PairMessage.decode(
                data, hybrid=self.cohort.hybrid, contributing=contributing
            )
        except ProtocolError as error:
            raise error.at(f"{self.sender!r} for {self.receiver!r}") from None

    def own_contribution(self, root: bytes) -> bytes:
        """Derive the sender's contribution from its root; empty where it has none."""
        if not self.cohort.contributes(self.sender, self.receiver):
            return b""
        return contribution(
            root, self.cohort.context, sender=self.sender, receiver=self.receiver
        )

    def recover_contribution(self, data: bytes, keys: RootKeys) -> bytes | None:
        """Open the sender's contribution with the keys of the receiver's root alone.

        Returns:
            The contribution; nothing if it is not the one that the sender committed
            to.
        """
        message = self.read(data)
        if keys.kem is None:
            return None
        opened = self._wrap(message.wrapped, keys.kem.decapsulate(message.kem))
        return opened if self._commit(opened) == message.committed else None

    def has_committed(self, contributed: bytes, data: bytes) -> bool:
        """Return whether the sender committed to a contribution in what it sent.

        Args:
            contributed: What the sender is said to have contributed.
            data: Its message, which ``read`` has accepted; one with a commitment.
        """
        return self._commit(contributed) == commitment_in(data)

    def _key(self, secret: bytes) -> bytes:
        return channel_key(secret, view=self.view, **self._ends)

    def _wrap(self, contributed: bytes, drawn: bytes) -> bytes:
        return wrap(contributed, drawn, view=self.view, **self._ends)

    def _commit(self, contributed: bytes) -> bytes:
        return contribution_commitment(contributed, **self._ends)

    @property
    def _ends(self) -> _Ends:
        return {
            "context": self.cohort.context,
            "sender": self.sender,
            "receiver": self.receiver,
        }
