"""Verification of a finished round, by anyone and from public bytes alone.

A transcript has the nodes that took part, the uploads that were summed, the consents,
and the seeds of all masks that do not cancel. With chunk j of every upload and its
Merkle path, chunk j of the sum is recomputed exactly. ``c`` random chunks miss
tampering with a fraction ``f`` of them with probability ``(1 - f) ** c``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tapestry.encoding import decode_digest
from tapestry.errors import ProtocolError, VerificationError
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    Result,
    Transcript,
    require_subset,
)
from tapestry.secagg.chunks import (
    CHUNK_COORDINATES,
    check_sizes,
    chunk_root,
    count_chunks,
    read_chunk,
)
from tapestry.secagg.client_states import Cohort, SharesRevealed
from tapestry.secagg.contribution_proof import read
from tapestry.secagg.key_schedule import (
    Agreement,
    commitment,
    contribution,
    contribution_commitment,
    mask_secret,
    pair_key,
    self_key,
)
from tapestry.secagg.masks import Mask, add_masks, aligned_empty
from tapestry.secagg.pair_messages import what_is_signed
from tapestry.secagg.recovery import Contributed
from tapestry.secagg.share_channel import is_root
from tapestry.tlog.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from tapestry.vectors import RingVector


def check_transcript(cohort: Cohort, transcript: Transcript) -> Contributed:
    """Check everything that a transcript claims, except the vectors.

    Guarantees:
        The listed nodes signed these keys, shares and uploads for this manifest;
        at least ``threshold`` survivors consented to exactly these uploads; the
        seeds are those that the nodes had committed to before they uploaded.

    Returns:
        What was contributed to masks with nodes that dropped out, in a hybrid round.

    Raises:
        VerificationError: A list has a node too many or too few, two lists differ, a
            signature does not hold, or a seed is not the one committed to; the code
            says which.
    """
    try:
        _check_lists(cohort, transcript)
    except ProtocolError as error:
        raise VerificationError(f"transcript: {error}", code=error.code) from None
    _check_signatures(cohort, transcript)
    _check_seeds(cohort, transcript)
    return _check_contributions(cohort, transcript)


def check_own(state: SharesRevealed, result: Result) -> None:
    """Check that the result sums the uploads that this node consented to.

    Raises:
        VerificationError: The node's own root is missing, or the list is another one.
    """
    survivors = result.transcript.survivors
    own = [s.root for s in survivors.survivors if s.node == state.round.node]
    if own != [state.root]:
        raise VerificationError(
            f"the result lacks the upload {state.root} of {state.round.node!r}",
            code="own-entry-differs",
        )
    if survivors != state.survivors:
        raise VerificationError(
            "the result sums other uploads than were agreed on:"
            f" {survivors.digest}, want {state.survivors.digest}",
            code="survivor-list-differs",
        )


def check_sum_chunks(
    result: Result, chunks: Sequence[bytes | memoryview], *, length: int
) -> None:
    """Check that the chunks of the sum are those that the result names.

    Raises:
        ProtocolError: The chunks have the wrong number or size for that length.
        VerificationError: The chunks have another Merkle root.
    """
    check_sizes(chunks, length=length)
    found = chunk_root(chunks)
    if found != result.sum_root:
        raise VerificationError(
            f"the chunks of the sum have the Merkle root {found}, the result names"
            f" {result.sum_root}",
            code="sum-root-differs",
        )


def removal_masks(
    cohort: Cohort, transcript: Transcript, contributed: Contributed
) -> Iterator[Mask]:
    """Yield the masks that unmask the sum of the uploads when they are added to it.

    They are the negatives of each survivor's own mask, and of its pair masks with
    nodes that dropped out.
    """
    context, view = cohort.context, decode_digest(transcript.heads.digest)
    for node, seed in transcript.self_seeds.items():
        key = self_key(bytes.fromhex(seed), context, node=node)
        yield Mask(key, negative=True)
    public = {
        a.node: bytes.fromhex(a.mask_key)
        for a in transcript.keys.advertisements
        if a.node in transcript.self_seeds
    }
    for dropped, secret in transcript.roots.items():
        root = bytes.fromhex(secret)
        agreement = Agreement(mask_secret(root, context, node=dropped))
        for node, peer in public.items():
            key = pair_key(
                agreement.with_peer(peer),
                context,
                names=(node, dropped),
                view=view,
                contributed=contributed[dropped][node] if cohort.hybrid else b"",
            )
            yield Mask(key, negative=node < dropped)  # the node had added it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkProof:
    """One chunk of a vector, and its Merkle path to a root."""

    chunk: bytes | memoryview
    proof: Sequence[bytes]


class FalseSum(VerificationError):
    """Authentic chunks of the uploads do not add up to an authentic one of the sum.

    They prove to anyone that the coordinator published another sum.
    """


class SumChecker:
    """Recomputes the published sum, chunk by chunk.

    Guarantees:
        It exists only for a transcript that holds.
    """

    def __init__(self, manifest: RoundManifest, result: Result) -> None:
        """Check the transcript and derive the masks.

        Raises:
            VerificationError: The transcript does not hold.
        """
        self._cohort = Cohort.of(manifest)
        self._result = result
        contributed = check_transcript(self._cohort, result.transcript)
        masks = removal_masks(self._cohort, result.transcript, contributed)
        self._masks = tuple(masks)

    @property
    def count(self) -> int:
        """The number of chunks of the sum."""
        return count_chunks(self._cohort.manifest.length)

    def check(
        self, index: int, *, uploads: Mapping[str, ChunkProof], total: ChunkProof
    ) -> None:
        """Recompute one chunk of the sum from that chunk of every upload.

        Raises:
            FalseSum: All Merkle paths hold, and the sum does not.
            VerificationError: A path does not hold, the chunks are not one from each
                survivor, there is no such chunk, or one has the wrong size.
        """
        roots = {u.node: u.root for u in self._result.transcript.uploads}
        if uploads.keys() != roots.keys():
            raise VerificationError(
                f"{len(uploads)} chunks of uploads, want one from each of the"
                f" {len(roots)} survivors",
                code="chunk-set-differs",
            )
        if not 0 <= index < self.count:
            raise VerificationError(
                f"chunk {index} of {self.count}; they count from 0",
                code="chunk-out-of-range",
            )
        want = self._open(index, total, self._result.sum_root)
        values = aligned_empty(want.size)
        values[:] = 0
        for node, evidence in uploads.items():
            values += self._open(index, evidence, roots[node])
        add_masks(values, self._masks, start=index * CHUNK_COORDINATES)
        if not np.array_equal(values, want):
            raise FalseSum(
                f"chunk {index} of the sum is not the sum of those of the uploads",
                code="false-sum",
            )

    def _open(self, index: int, evidence: ChunkProof, root: str) -> RingVector:
        left = self._cohort.manifest.length - index * CHUNK_COORDINATES
        want, size = 4 * min(left, CHUNK_COORDINATES), memoryview(evidence.chunk).nbytes
        if size != want:
            raise VerificationError(
                f"chunk {index} of {size} bytes, want {want}",
                code="chunk-size-invalid",
            )
        verify_inclusion(
            leaf_hash(evidence.chunk),
            index=index,
            size=self.count,
            proof=evidence.proof,
            root=decode_digest(root),
        )
        return read_chunk(evidence.chunk)


def _check_lists(cohort: Cohort, transcript: Transcript) -> None:
    manifest = cohort.manifest
    advertised = [a.node for a in transcript.keys.advertisements]
    shared = [h.node for h in transcript.heads.heads]
    survived = [u.node for u in transcript.uploads]
    consented = [c.node for c in transcript.consents.consents]
    require_subset(advertised, cohort.roster, rule="in the cohort")
    require_subset(shared, advertised, rule="in the key list")
    require_subset(survived, shared, rule="among the nodes that shared")
    require_subset(consented, survived, rule="a survivor")
    if len(survived) < max(manifest.min_cohort, manifest.threshold):
        raise ProtocolError(
            f"{len(survived)} survivors, want"
            f" {max(manifest.min_cohort, manifest.threshold)}",
            code="cohort-too-small",
        )
    if len(consented) < manifest.threshold:
        raise ProtocolError(
            f"{len(consented)} consents, want {manifest.threshold}",
            code="consents-too-few",
        )
    if transcript.self_seeds.keys() != set(survived):
        raise ProtocolError(
            f"{len(transcript.self_seeds)} self seeds, want one for each of the"
            f" {len(survived)} survivors",
            code="secret-set-differs",
        )
    if transcript.roots.keys() != set(shared) - set(survived):
        raise ProtocolError(
            f"{len(transcript.roots)} roots, want one for each of the"
            f" {len(shared) - len(survived)} nodes that dropped out",
            code="secret-set-differs",
        )
    makers = {n for n in survived if cohort.receivers(n, transcript.roots)}
    if transcript.contributions.keys() != makers:
        raise ProtocolError(
            f"{len(transcript.contributions)} survivors show contributions, want the"
            f" {len(makers)} that made one to a mask with a node that dropped out",
            code="secret-set-differs",
        )


def _check_signatures(cohort: Cohort, transcript: Transcript) -> None:
    keys, heads = transcript.keys.digest, transcript.heads.digest
    agreed = transcript.survivors.digest
    for head in transcript.heads.heads:
        if head.view != keys:
            raise VerificationError(
                f"{head.node!r} saw another key list: {head.view}, want {keys}",
                code="key-list-differs",
            )
    for upload in transcript.uploads:
        if upload.view != heads:
            raise VerificationError(
                f"{upload.node!r} shared with another set of nodes: {upload.view},"
                f" want {heads}",
                code="share-list-differs",
            )
    for consent in transcript.consents.consents:
        if consent.survivors != agreed:
            raise VerificationError(
                f"{consent.node!r} consented to another survivor list:"
                f" {consent.survivors}, want {agreed}",
                code="survivor-list-differs",
            )
    for signed in (
        *transcript.keys.advertisements,
        *transcript.heads.heads,
        *transcript.uploads,
        *transcript.consents.consents,
    ):
        signed.verify(cohort.context, cohort.roster[signed.node])


def _check_seeds(cohort: Cohort, transcript: Transcript) -> None:
    committed = {h.node: h.commitment for h in transcript.heads.heads}
    for node, seed in transcript.self_seeds.items():
        mine = commitment(bytes.fromhex(seed), cohort.context, node=node).hex()
        if mine != committed[node]:
            raise VerificationError(
                f"{node!r} had committed to another self seed than the transcript has",
                code="self-seed-differs",
            )
    advertised = {a.node: a for a in transcript.keys.advertisements}
    for node, root in transcript.roots.items():
        if not is_root(bytes.fromhex(root), cohort, advertised[node]):
            raise VerificationError(
                f"{node!r} had advertised other keys than follow from the root that the"
                " transcript has",
                code="root-differs",
            )


def _check_contributions(cohort: Cohort, transcript: Transcript) -> Contributed:
    """Return what follows from the roots, and what survivors are shown to have made."""
    if not cohort.hybrid:
        return {}
    found = {
        dropped: {
            node: contribution(
                bytes.fromhex(root), cohort.context, sender=dropped, receiver=node
            )
            for node in cohort.receivers(dropped, transcript.self_seeds)
        }
        for dropped, root in transcript.roots.items()
    }
    names = [a.node for a in transcript.keys.advertisements]
    signed = {h.node: decode_digest(h.ciphertexts) for h in transcript.heads.heads}
    for node, shown in transcript.contributions.items():
        receivers = cohort.receivers(node, names)
        places = [i for i, name in enumerate(receivers) if name in transcript.roots]
        own = _open_shown(
            bytes.fromhex(shown),
            cohort,
            maker=node,
            receivers=receivers,
            places=places,
            signed=signed[node],
        )
        for place, made in zip(places, own, strict=True):
            found[receivers[place]][node] = made
    return found


def _open_shown(
    shown: bytes,
    cohort: Cohort,
    *,
    maker: str,
    receivers: Sequence[str],
    places: Sequence[int],
    signed: bytes,
) -> list[bytes]:
    """Read what a survivor contributed, and compare it with what it signed."""

    def commit(place: int, made: bytes) -> bytes:
        return contribution_commitment(
            made, cohort.context, sender=maker, receiver=receivers[place]
        )

    hashed, proof = shown[:HASH_BYTES], shown[HASH_BYTES:]
    root, found = read(proof, count=len(receivers), places=places, commit=commit)
    if what_is_signed(root, hashed) != signed:
        raise VerificationError(
            f"{maker!r} had committed to other contributions to its masks with nodes"
            " that dropped out",
            code="contribution-differs",
        )
    return found
