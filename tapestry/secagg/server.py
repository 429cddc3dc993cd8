"""The coordinator's half of TSA-1.

One collector per stage. ``accept(sender, message)`` checks a message and keeps it, or
raises one error that names the sender and the rule and keeps nothing; the round goes
on without the sender. ``close()`` ends the stage with whoever answered::

    AdvertiseKeysStage -> ShareKeysStage -> CollectMaskedInputsStage
    -> CheckConsistencyStage -> UnmaskStage -> Unmasked

``missing`` names those who may still answer. ``close`` raises QuorumError when too
few did; the round is then over, and what was uploaded stays masked for good.

Nothing here is trusted by the nodes. A coordinator that deviates is held by what
they refuse in ``client``, and by what anyone can check in ``transcript``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tapestry.errors import ProtocolError, QuorumError
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    Advertisement,
    Ciphertexts,
    Consent,
    ConsentList,
    HeadList,
    KeyList,
    Reveal,
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
from tapestry.secagg.quantization import check_sum, mean
from tapestry.secagg.recovery import InconsistentShare, recover_round
from tapestry.secagg.shamir import decode_share
from tapestry.secagg.transcript import removal_masks
from tapestry.vectors import FloatVector, RingVector

_T = TypeVar("_T")


class _SignedMessage(Protocol):
    @property
    def node(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasked:
    """The sum of the survivors' updates, and how it came about."""

    cohort: Cohort
    values: RingVector
    transcript: Transcript
    sum_root: str
    faults: tuple[InconsistentShare, ...]

    def mean(self) -> FloatVector:
        """Read the sum as the mean of the survivors' updates.

        Raises:
            ProtocolError: No honest updates give this sum.
        """
        encoding, survivors = self.cohort.encoding, len(self.transcript.uploads)
        check_sum(self.values, encoding=encoding, survivors=survivors)
        return mean(self.values, encoding=encoding, survivors=survivors)

    def chunks(self) -> list[memoryview]:
        """Cut the sum into the chunks of message 10."""
        return cut(self.values)


class AdvertiseKeysStage:
    """Collects message 1."""

    def __init__(self, manifest: RoundManifest) -> None:
        """Open a round.

        Raises:
            ProtocolError: The encoding does not fit, or a key is malformed.
        """
        self._cohort = Cohort.of(manifest)
        self._kept: dict[str, Advertisement] = {}
        self._taken: set[str] = set()  # keys
        self._probe = Agreement(bytes(31) + b"\x40")

    @property
    def missing(self) -> list[str]:
        """Who may still answer."""
        return _missing(self._cohort.roster, self._kept)

    def accept(self, sender: str, message: Advertisement) -> None:
        """Keep a node's keys.

        Raises:
            ProtocolError: A stranger, a second message, a key that another node has
                or that is of low order.
            VerificationError: A bad signature.
        """
        _check_sender(sender, message, expected=self.missing)
        keys = (message.channel_key, message.mask_key)
        if len(set(keys)) < len(keys) or not self._taken.isdisjoint(keys):
            raise ProtocolError(f"{sender!r} advertised a key twice")
        message.verify(self._cohort.context, self._cohort.roster[sender])
        for key in keys:
            self._probe.with_peer(bytes.fromhex(key))
        self._kept[sender] = message
        self._taken.update(keys)

    def close(self) -> tuple["ShareKeysStage", KeyList]:
        """Make the key list.

        Raises:
            QuorumError: Fewer nodes than ``min_cohort``.
        """
        _check_size(self._cohort, self._kept)
        keys = KeyList(advertisements=_ordered(self._kept))
        return ShareKeysStage(self._cohort, keys), keys


class ShareKeysStage:
    """Collects message 3."""

    def __init__(self, cohort: Cohort, keys: KeyList) -> None:
        """Take the key list."""
        self._cohort = cohort
        self._keys = keys
        self._view = keys.digest
        self._names = [a.node for a in keys.advertisements]
        self._kept: dict[str, ShareMessage] = {}

    @property
    def missing(self) -> list[str]:
        """Who may still answer."""
        return _missing(self._names, self._kept)

    def accept(self, sender: str, message: ShareMessage) -> None:
        """Keep a node's sealed shares.

        Raises:
            ProtocolError: A stranger, a second message, another key list, not one
                ciphertext for each of the others, or not those that were signed.
            VerificationError: A bad signature.
        """
        head = message.head
        _check_sender(sender, head, expected=self.missing)
        if head.view != self._view:
            raise ProtocolError(f"{sender!r} saw another key list")
        if message.ciphertexts.keys() != set(self._names) - {sender}:
            raise ProtocolError(f"{sender!r} did not share with each of the others")
        if head.ciphertexts != message.ciphertexts_digest:
            raise ProtocolError(f"{sender!r} signed other ciphertexts")
        head.verify(self._cohort.context, self._cohort.roster[sender])
        self._kept[sender] = message

    def close(self) -> tuple["CollectMaskedInputsStage", dict[str, Ciphertexts]]:
        """Make message 4, one for each node that shared.

        Raises:
            QuorumError: Fewer nodes than ``min_cohort``.
        """
        _check_size(self._cohort, self._kept)
        heads = HeadList(heads=tuple(m.head for m in _ordered(self._kept)))
        names = sorted(self._kept)
        messages = {
            receiver: Ciphertexts(
                heads=heads,
                ciphertexts={
                    sender: self._kept[sender].ciphertexts[receiver]
                    for sender in names
                    if sender != receiver
                },
            )
            for receiver in names
        }
        return CollectMaskedInputsStage(self._cohort, self._keys, heads), messages


class CollectMaskedInputsStage:
    """Collects message 5, adding each upload to one running sum."""

    def __init__(self, cohort: Cohort, keys: KeyList, heads: HeadList) -> None:
        """Take the lists of those who advertised and shared."""
        self._cohort = cohort
        self._keys = keys
        self._heads = heads
        self._view = heads.digest
        self._names = [h.node for h in heads.heads]
        self._kept: dict[str, UploadHead] = {}
        self._total = aligned_empty(cohort.manifest.length)
        self._total[:] = 0

    @property
    def missing(self) -> list[str]:
        """Who may still answer."""
        return _missing(self._names, self._kept)

    def accept(self, sender: str, message: Upload) -> None:
        """Add a node's masked vector to the sum.

        Raises:
            ProtocolError: A stranger, a second upload, other sharers, chunks of the
                wrong number or size, or not those that were signed.
            VerificationError: A bad signature.
        """
        head = message.head
        _check_sender(sender, head, expected=self.missing)
        if head.view != self._view:
            raise ProtocolError(f"{sender!r} shared with another set of nodes")
        check_sizes(message.chunks, length=self._cohort.manifest.length)
        head.verify(self._cohort.context, self._cohort.roster[sender])
        if chunk_root(message.chunks) != head.root:
            raise ProtocolError(f"{sender!r} signed another Merkle root")
        start = 0
        for chunk in message.chunks:
            part = read_chunk(chunk)
            self._total[start : start + part.size] += part
            start += part.size
        self._kept[sender] = head

    def close(self) -> tuple["CheckConsistencyStage", SurvivorList]:
        """Make the list of survivors.

        Raises:
            QuorumError: Fewer nodes than ``min_cohort``.
        """
        _check_size(self._cohort, self._kept)
        uploads = _ordered(self._kept)
        rows = tuple(Survivor(node=u.node, root=u.root) for u in uploads)
        survivors = SurvivorList(view=self._view, survivors=rows)
        masked = Masked(
            cohort=self._cohort,
            keys=self._keys,
            heads=self._heads,
            uploads=uploads,
            total=self._total,
        )
        return CheckConsistencyStage(masked, survivors), survivors


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """The sum of the uploads, still masked, and who signed what up to here."""

    cohort: Cohort
    keys: KeyList
    heads: HeadList
    uploads: tuple[UploadHead, ...]
    total: RingVector


class CheckConsistencyStage:
    """Collects message 7."""

    def __init__(self, masked: Masked, survivors: SurvivorList) -> None:
        """Take the list that the survivors are asked about."""
        self._masked = masked
        self._survivors = survivors
        self._digest = survivors.digest
        self._kept: dict[str, Consent] = {}

    @property
    def missing(self) -> list[str]:
        """Who may still answer."""
        return _missing(self._survivors.names, self._kept)

    def accept(self, sender: str, message: Consent) -> None:
        """Keep a consent.

        Raises:
            ProtocolError: A stranger, a second message, or another list.
            VerificationError: A bad signature.
        """
        cohort = self._masked.cohort
        _check_sender(sender, message, expected=self.missing)
        if message.survivors != self._digest:
            raise ProtocolError(f"{sender!r} consented to another list")
        message.verify(cohort.context, cohort.roster[sender])
        self._kept[sender] = message

    def close(self) -> tuple["UnmaskStage", ConsentList]:
        """Make the list of consents.

        Raises:
            QuorumError: Fewer than ``threshold``.
        """
        _check_threshold(self._masked.cohort, self._kept, "consents")
        consents = ConsentList(consents=_ordered(self._kept))
        return UnmaskStage(self._masked, consents), consents


class UnmaskStage:
    """Collects message 9."""

    def __init__(self, masked: Masked, consents: ConsentList) -> None:
        """Take the masked sum and the consents."""
        self._masked = masked
        self._consents = consents
        self._survivors = [u.node for u in masked.uploads]
        shared = [h.node for h in masked.heads.heads]
        self._dropped = [name for name in shared if name not in self._survivors]
        self._kept: dict[str, Reveal] = {}

    @property
    def missing(self) -> list[str]:
        """Who may still answer."""
        return _missing(self._survivors, self._kept)

    def accept(self, sender: str, message: Reveal) -> None:
        """Keep a node's shares.

        Raises:
            ProtocolError: A stranger, a second message, shares of other secrets
                than were asked for, or a share that is not below the prime.
            VerificationError: A bad signature.
        """
        cohort = self._masked.cohort
        _check_sender(sender, message, expected=self.missing)
        if message.self_shares.keys() != set(self._survivors):
            raise ProtocolError(f"{sender!r} revealed other self masks than asked for")
        if message.mask_shares.keys() != set(self._dropped):
            raise ProtocolError(f"{sender!r} revealed other mask keys than asked for")
        message.verify(cohort.context, cohort.roster[sender])
        try:
            for share in (*message.self_shares.values(), *message.mask_shares.values()):
                decode_share(bytes.fromhex(share))
        except ProtocolError as error:
            raise ProtocolError(f"{sender!r} revealed no share: {error}") from None
        self._kept[sender] = message

    def close(self, *, threads: int = 0) -> Unmasked:
        """Recover the seeds and take the masks off the sum.

        Raises:
            QuorumError: Fewer than ``threshold`` reveals.
            VerificationError: No set of shares gives what some node, named, had
                committed to.
        """
        masked, cohort = self._masked, self._masked.cohort
        _check_threshold(cohort, self._kept, "reveals")
        seeds, secrets, faults = recover_round(
            cohort, masked.keys, heads=masked.heads, reveals=_ordered(self._kept)
        )
        transcript = Transcript(
            keys=masked.keys,
            heads=masked.heads,
            uploads=masked.uploads,
            consents=self._consents,
            self_seeds=seeds,
            mask_secrets=secrets,
        )
        masks = removal_masks(cohort, transcript)
        add_masks(masked.total, masks, threads=threads)
        return Unmasked(
            cohort=cohort,
            values=masked.total,
            transcript=transcript,
            sum_root=chunk_root(cut(masked.total)),
            faults=faults,
        )


def _missing(
    expected: Sequence[str] | Mapping[str, object], kept: Mapping[str, object]
) -> list[str]:
    return [name for name in expected if name not in kept]


def _check_sender(
    sender: str, message: _SignedMessage, *, expected: Sequence[str]
) -> None:
    if message.node != sender:
        raise ProtocolError(f"{sender!r} sent a message of {message.node!r}")
    if sender not in expected:
        raise ProtocolError(f"no message is expected of {sender!r}")


def _check_size(cohort: Cohort, kept: Mapping[str, object]) -> None:
    want = max(cohort.manifest.min_cohort, cohort.manifest.threshold)
    if len(kept) < want:
        raise QuorumError(f"{len(kept)} nodes are left, want {want}")


def _check_threshold(cohort: Cohort, kept: Mapping[str, object], what: str) -> None:
    if len(kept) < cohort.manifest.threshold:
        raise QuorumError(f"{len(kept)} {what}, want {cohort.manifest.threshold}")


def _ordered(kept: Mapping[str, _T]) -> tuple[_T, ...]:
    return tuple(kept[name] for name in sorted(kept))
