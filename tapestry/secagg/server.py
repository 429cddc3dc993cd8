"""Server of secure aggregation: the coordinator's half of TSA-1, messages 1 to 10.

TSA-1 (governance/SECAGG.md) follows Bonawitz et al., "Practical Secure Aggregation for
Privacy-Preserving Machine Learning" (CCS 2017), figure 4, with the consistency check
that it asks for against active adversaries. What ``accept`` refuses is what the page
asks for in its section "The coordinator MUST".

One collector per stage. ``accept(sender, message)`` checks a message and keeps it, or
raises one error that names the sender and the rule and keeps nothing; the round goes
on without the sender. ``close()`` ends the stage with the nodes that answered::

    AdvertiseKeysStage        collects message 1, makes 2
    ShareKeysStage            3, 4
    CollectMaskedInputsStage  5, 6
    CheckConsistencyStage     7, 8
    UnmaskStage               9, 10 (``Unmasked``)

``missing`` names the nodes that may still answer. ``close`` raises QuorumError when too
few did; the round is then over, and what was uploaded stays masked for good.

The nodes trust nothing here. They refuse in ``client`` what a coordinator that deviates
may send, and anyone can check in ``transcript`` what it publishes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tapestry.encoding import decode_digest
from tapestry.errors import ProtocolError, QuorumError, VerificationError
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    Advertisement,
    Ciphertexts,
    Consent,
    ConsentList,
    HeadList,
    KeyList,
    Reveal,
    ShareHead,
    ShareMessage,
    Survivor,
    SurvivorList,
    Transcript,
    Upload,
    UploadHead,
)
from tapestry.secagg.chunks import check_sizes, chunk_root, cut, read_chunk
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.key_schedule import Agreement
from tapestry.secagg.masks import add_masks, aligned_empty
from tapestry.secagg.pair_messages import PairMessages, split_joined
from tapestry.secagg.quantization import check_sum, mean
from tapestry.secagg.recovery import (
    InconsistentShare,
    recover_contributions,
    recover_round,
    show_contributions,
)
from tapestry.secagg.shamir import decode_share
from tapestry.secagg.share_channel import ShareChannel
from tapestry.secagg.transcript import removal_masks
from tapestry.vectors import FloatVector, RingVector

_T = TypeVar("_T")
Sent = Mapping[str, PairMessages]
"""The messages of nodes to each other, by sender."""


class _SignedMessage(Protocol):
    @property
    def node(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasked:
    """The sum of the survivors' updates, and the transcript that explains it."""

    cohort: Cohort
    values: RingVector
    transcript: Transcript
    sum_root: str
    faults: tuple[InconsistentShare, ...]

    def mean(self) -> FloatVector:
        """Read the sum as the mean of the survivors' updates.

        Raises:
            ProtocolError: The sum is outside what honest updates can give.
        """
        encoding, survivors = self.cohort.encoding, len(self.transcript.uploads)
        check_sum(self.values, encoding=encoding, survivors=survivors)
        return mean(self.values, encoding=encoding, survivors=survivors)

    def chunks(self) -> list[memoryview]:
        """Cut the sum into the chunks of message 10."""
        return cut(self.values)


class _Stage(Generic[_T]):
    """A stage: the nodes that may answer in it, and what was kept of each."""

    def __init__(self, cohort: Cohort, names: Iterable[str]) -> None:
        self._cohort = cohort
        self._names = tuple(names)
        self.kept: dict[str, _T] = {}

    @property
    def missing(self) -> list[str]:
        """The nodes that may still answer."""
        return [name for name in self._names if name not in self.kept]

    def _check_sender(self, sender: str, message: _SignedMessage) -> None:
        if message.node != sender:
            raise ProtocolError(
                f"{sender!r} sent a message of {message.node!r}", code="sender-differs"
            )
        if sender not in self.missing:
            raise ProtocolError(
                f"no message is expected of {sender!r}: it takes no part in this stage,"
                " or has answered",
                code="message-unexpected",
            )

    def _check_size(self) -> None:
        manifest = self._cohort.manifest
        want = max(manifest.min_cohort, manifest.threshold)
        if len(self.kept) < want:
            raise QuorumError(
                f"{len(self.kept)} nodes are left in round {manifest.round_number},"
                f" want {want}",
                code="cohort-too-small",
            )

    def _ordered(self) -> tuple[_T, ...]:
        return tuple(self.kept[name] for name in sorted(self.kept))


class AdvertiseKeysStage(_Stage[Advertisement]):
    """Collects message 1."""

    def __init__(self, manifest: RoundManifest) -> None:
        """Open a round.

        Raises:
            ProtocolError: The encoding does not fit 31 bits, or a participant's key is
                malformed.
        """
        cohort = Cohort.of(manifest)
        super().__init__(cohort, cohort.roster)
        self.taken: set[str] = set()  # keys
        self._probe = Agreement(bytes(31) + b"\x40")

    def accept(self, sender: str, message: Advertisement) -> None:
        """Keep a node's keys.

        Raises:
            ProtocolError: No message is expected of the sender, a key is another
                node's, occurs twice or is of low order, or there is no ML-KEM key
                where one belongs.
            VerificationError: The sender's signature does not hold.
        """
        self._check_sender(sender, message)
        self._cohort.check_kem_key(message)
        keys = message.public_keys
        if len(set(keys)) < len(keys) or not self.taken.isdisjoint(keys):
            raise ProtocolError(
                f"{sender!r} advertised a public key that was advertised before",
                code="public-key-duplicated",
            )
        message.verify(self._cohort.context, self._cohort.roster[sender])
        for key in (message.channel_key, message.mask_key):
            self._probe.with_peer(bytes.fromhex(key))
        self.kept[sender] = message
        self.taken.update(keys)

    def close(self) -> tuple["ShareKeysStage", KeyList]:
        """Make the key list.

        Raises:
            QuorumError: Fewer nodes answered than ``min_cohort`` or ``threshold``.
        """
        self._check_size()
        keys = KeyList(advertisements=self._ordered())
        return ShareKeysStage(self._cohort, keys), keys


@dataclass(frozen=True, slots=True, kw_only=True)
class SentShares:
    """Message 3 of one node, as it is kept."""

    head: ShareHead
    messages: PairMessages


class ShareKeysStage(_Stage[SentShares]):
    """Collects message 3."""

    def __init__(self, cohort: Cohort, keys: KeyList) -> None:
        super().__init__(cohort, (a.node for a in keys.advertisements))
        self._keys = keys
        self._view = keys.digest

    def accept(self, sender: str, message: ShareMessage) -> None:
        """Keep a node's sealed shares.

        Raises:
            ProtocolError: No message is expected of the sender, it saw another key
                list, its messages have not the size of one for each other node, or
                are not those that were signed.
            VerificationError: The sender's signature does not hold.
        """
        head = message.head
        self._check_sender(sender, head)
        if head.view != self._view:
            raise ProtocolError(
                f"{sender!r} saw another key list: {head.view}, want {self._view}",
                code="key-list-differs",
            )
        others = [name for name in self._names if name != sender]
        sizes = {name: self._cohort.message_size(sender, name) for name in others}
        try:
            to = split_joined(message.messages, sizes)
        except ProtocolError as error:
            raise error.at(f"{sender!r} sent") from None
        messages = PairMessages.of(to, joined=message.messages)
        if decode_digest(head.ciphertexts) != messages.digest:
            raise ProtocolError(
                f"{sender!r} signed other ciphertexts than it sent",
                code="ciphertexts-not-signed",
            )
        head.verify(self._cohort.context, self._cohort.roster[sender])
        self.kept[sender] = SentShares(head=head, messages=messages)

    def close(self) -> tuple["CollectMaskedInputsStage", dict[str, Ciphertexts]]:
        """Make message 4, one for each node that shared.

        Raises:
            QuorumError: Fewer nodes answered than ``min_cohort`` or ``threshold``.
        """
        self._check_size()
        heads = HeadList(heads=tuple(s.head for s in self._ordered()))
        names = sorted(self.kept)
        sent = {name: self.kept[name].messages for name in names}
        messages = {
            receiver: Ciphertexts(
                heads=heads,
                messages=b"".join(
                    [sent[n].to[receiver] for n in names if n != receiver]
                ),
            )
            for receiver in names
        }
        # What survivors contributed to masks with nodes that drop out is in there.
        kept = sent if self._cohort.hybrid else {}
        stage = CollectMaskedInputsStage(self._cohort, self._keys, heads, sent=kept)
        return stage, messages


class CollectMaskedInputsStage(_Stage[UploadHead]):
    """Collects message 5, adding each upload to one running sum."""

    def __init__(
        self,
        cohort: Cohort,
        keys: KeyList,
        heads: HeadList,
        *,
        sent: Sent,
    ) -> None:
        super().__init__(cohort, (h.node for h in heads.heads))
        self._keys = keys
        self._heads = heads
        self._sent = sent
        self._view = heads.digest
        self.total = aligned_empty(cohort.manifest.length)
        self.total[:] = 0

    def accept(self, sender: str, message: Upload) -> None:
        """Add a node's masked vector to the sum.

        Raises:
            ProtocolError: No upload is expected of the sender, it follows another list
                of shares, or its chunks have the wrong number or size or are not those
                that were signed.
            VerificationError: The sender's signature does not hold.
        """
        head = message.head
        self._check_sender(sender, head)
        if head.view != self._view:
            raise ProtocolError(
                f"{sender!r} shared with another set of nodes: {head.view}, want"
                f" {self._view}",
                code="share-list-differs",
            )
        check_sizes(message.chunks, length=self._cohort.manifest.length)
        head.verify(self._cohort.context, self._cohort.roster[sender])
        if chunk_root(message.chunks) != head.root:
            raise ProtocolError(
                f"{sender!r} signed the Merkle root {head.root}, its chunks have"
                " another",
                code="upload-root-differs",
            )
        start = 0
        for chunk in message.chunks:
            part = read_chunk(chunk)
            self.total[start : start + part.size] += part
            start += part.size
        self.kept[sender] = head

    def close(self) -> tuple["CheckConsistencyStage", SurvivorList]:
        """Make the list of survivors.

        Raises:
            QuorumError: Fewer nodes answered than ``min_cohort`` or ``threshold``.
        """
        self._check_size()
        uploads = self._ordered()
        rows = tuple(Survivor(node=u.node, root=u.root) for u in uploads)
        survivors = SurvivorList(view=self._view, survivors=rows)
        masked = Masked(
            cohort=self._cohort,
            keys=self._keys,
            heads=self._heads,
            sent=self._sent,
            uploads=uploads,
            total=self.total,
        )
        return CheckConsistencyStage(masked, survivors), survivors


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """The sum of the uploads, still masked, and the signed messages up to here."""

    cohort: Cohort
    keys: KeyList
    heads: HeadList
    sent: Sent  # in a hybrid round
    uploads: tuple[UploadHead, ...]
    total: RingVector


class CheckConsistencyStage(_Stage[Consent]):
    """Collects message 7."""

    def __init__(self, masked: Masked, survivors: SurvivorList) -> None:
        super().__init__(masked.cohort, survivors.names)
        self.masked = masked
        self._digest = survivors.digest

    def accept(self, sender: str, message: Consent) -> None:
        """Keep a consent.

        Raises:
            ProtocolError: No consent is expected of the sender, or it is one to
                another list.
            VerificationError: The sender's signature does not hold.
        """
        self._check_sender(sender, message)
        if message.survivors != self._digest:
            raise ProtocolError(
                f"{sender!r} consented to another survivor list: {message.survivors},"
                f" want {self._digest}",
                code="survivor-list-differs",
            )
        message.verify(self._cohort.context, self._cohort.roster[sender])
        self.kept[sender] = message

    def close(self) -> tuple["UnmaskStage", ConsentList]:
        """Make the list of consents.

        Raises:
            QuorumError: Fewer nodes than ``threshold`` consented.
        """
        threshold = self._cohort.manifest.threshold
        if len(self.kept) < threshold:
            raise QuorumError(
                f"{len(self.kept)} consents, want {threshold}",
                code="consents-too-few",
            )
        consents = ConsentList(consents=self._ordered())
        return UnmaskStage(self.masked, consents), consents


class UnmaskStage(_Stage[Reveal]):
    """Collects message 9."""

    def __init__(self, masked: Masked, consents: ConsentList) -> None:
        super().__init__(masked.cohort, (u.node for u in masked.uploads))
        self.masked = masked
        self._consents = consents
        self.bad_contributors: tuple[str, ...] = ()
        self._dropped = {h.node for h in masked.heads.heads} - set(self._names)
        self._view = decode_digest(masked.keys.digest)

    def accept(self, sender: str, message: Reveal) -> None:
        """Keep a node's shares.

        Raises:
            ProtocolError: No shares are expected of the sender, they are of other
                secrets than were asked for, or one is not below the prime; or its
                contributions are not those that it had committed to.
            VerificationError: The sender's signature does not hold.
        """
        self._check_sender(sender, message)
        if message.self_shares.keys() != set(self._names):
            raise ProtocolError(
                f"{sender!r} revealed shares of {len(message.self_shares)} self masks,"
                f" want those of the {len(self._names)} survivors",
                code="share-set-differs",
            )
        if message.root_shares.keys() != self._dropped:
            raise ProtocolError(
                f"{sender!r} revealed shares of {len(message.root_shares)} roots,"
                f" want those of the {len(self._dropped)} nodes that dropped out",
                code="share-set-differs",
            )
        message.verify(self._cohort.context, self._cohort.roster[sender])
        try:
            for share in (*message.self_shares.values(), *message.root_shares.values()):
                decode_share(bytes.fromhex(share))
        except ProtocolError as error:
            raise error.at(f"{sender!r} revealed a bad share") from None
        self._check_contributions(sender, message.contributions)
        self.kept[sender] = message

    def _check_contributions(self, sender: str, revealed: Mapping[str, str]) -> None:
        """Compare what a survivor revealed with what it had signed before."""
        want = self._cohort.receivers(sender, self._dropped)
        if revealed.keys() != set(want):
            raise ProtocolError(
                f"{sender!r} revealed {len(revealed)} contributions, want the"
                f" {len(want)} to its masks with nodes that dropped out",
                code="contribution-set-differs",
            )
        for name, made in revealed.items():
            channel = ShareChannel(
                cohort=self._cohort, sender=sender, receiver=name, view=self._view
            )
            sent = self.masked.sent[sender].to[name]
            if not channel.has_committed(bytes.fromhex(made), sent):
                raise ProtocolError(
                    f"{sender!r} had committed to another contribution to its mask with"
                    f" {name!r}",
                    code="contribution-differs",
                )

    def close(self, *, threads: int = 0) -> Unmasked:
        """Recover the secrets and take the masks off the sum.

        Raises:
            QuorumError: Fewer nodes than ``threshold`` revealed shares.
            VerificationError: No set of shares gives what some node, named, had
                committed to, or some nodes' contributions are not those that they had
                committed to; ``bad_contributors`` has their names.
        """
        masked, cohort = self.masked, self._cohort
        if len(self.kept) < cohort.manifest.threshold:
            raise QuorumError(
                f"{len(self.kept)} reveals, want {cohort.manifest.threshold}",
                code="shares-too-few",
            )
        seeds, roots, faults = recover_round(
            cohort, masked.keys, heads=masked.heads, reveals=self._ordered()
        )
        contributed, self.bad_contributors = recover_contributions(
            cohort,
            masked.sent,
            roots=roots,
            revealed={
                name: self.kept[name].contributions if name in self.kept else {}
                for name in self._names
            },
            view=self._view,
        )
        if self.bad_contributors:
            raise VerificationError(
                f"{self.bad_contributors[0]!r} had committed to another contribution"
                f" to its masks in round {cohort.manifest.round_number}",
                code="contribution-differs",
            )
        transcript = Transcript(
            keys=masked.keys,
            heads=masked.heads,
            uploads=masked.uploads,
            consents=self._consents,
            self_seeds=seeds,
            roots=roots,
            contributions=show_contributions(
                cohort,
                masked.sent,
                contributed=contributed,
                lost=self._dropped,
                survivors=self._names,
            ),
        )
        masks = removal_masks(cohort, transcript, contributed)
        add_masks(masked.total, masks, threads=threads)
        return Unmasked(
            cohort=cohort,
            values=masked.total,
            transcript=transcript,
            sum_root=chunk_root(cut(masked.total)),
            faults=faults,
        )
