"""What anyone can check about a finished round, from public bytes alone.

A transcript says who took part, which uploads were summed, who consented, and the
seeds of all masks that do not cancel. With chunk j of every upload and its Merkle
path, chunk j of the sum is recomputed exactly. ``c`` random chunks miss tampering
with a fraction ``f`` of them with probability ``(1 - f) ** c``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tapestry.encoding import decode_digest
from tapestry.errors import ProtocolError, VerificationError
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Result, Transcript, require_subset
from tapestry.secagg.chunks import (
    CHUNK_COORDINATES,
    check_sizes,
    chunk_root,
    count_chunks,
    read_chunk,
)
from tapestry.secagg.client_states import Cohort, SharesRevealed
from tapestry.secagg.key_schedule import (
    Agreement,
    commitment,
    pair_key,
    public_key,
    self_key,
)
from tapestry.secagg.masks import Mask, add_masks, aligned_empty
from tapestry.tlog.merkle import leaf_hash, verify_inclusion
from tapestry.vectors import RingVector


def check_transcript(cohort: Cohort, transcript: Transcript) -> None:
    """Check everything that a transcript claims, short of the vectors.

    Guarantees:
        The listed nodes signed these keys, shares and uploads for this manifest;
        at least ``threshold`` survivors consented to exactly these uploads; the
        seeds are those that the nodes had committed to before they uploaded.

    Raises:
        VerificationError: Something does not hold; the message says what.
    """
    try:
        _check_lists(cohort, transcript)
    except ProtocolError as error:
        raise VerificationError(f"transcript: {error}") from None
    _check_signatures(cohort, transcript)
    _check_seeds(cohort, transcript)


def check_own(state: SharesRevealed, result: Result) -> None:
    """See that the result sums the uploads that this node consented to.

    Raises:
        VerificationError: Its own root is missing, or the list is another one.
    """
    survivors = result.transcript.survivors
    own = [s.root for s in survivors.survivors if s.node == state.round.node]
    if own != [state.root]:
        raise VerificationError("the result lacks this node's upload")
    if survivors != state.survivors:
        raise VerificationError("the result sums other uploads than were agreed on")


def check_sum_chunks(
    result: Result, chunks: Sequence[bytes | memoryview], *, length: int
) -> None:
    """See that the chunks of the sum are those that the result names.

    Raises:
        ProtocolError: Wrong number or size.
        VerificationError: Another Merkle root.
    """
    check_sizes(chunks, length=length)
    if chunk_root(chunks) != result.sum_root:
        raise VerificationError("the chunks of the sum have another Merkle root")


def removal_masks(cohort: Cohort, transcript: Transcript) -> Iterator[Mask]:
    """Yield what takes the masks off the sum of the uploads.

    That is each survivor's own mask, and its pair masks with nodes that dropped out.
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
    for dropped, secret in transcript.mask_secrets.items():
        agreement = Agreement(bytes.fromhex(secret))
        for node, peer in public.items():
            shared = agreement.with_peer(peer)
            key = pair_key(shared, context, names=(node, dropped), view=view)
            yield Mask(key, negative=node < dropped)  # the node had added it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkProof:
    """One chunk of a vector, and its Merkle path to a root."""

    chunk: bytes | memoryview
    proof: Sequence[bytes]


class FalseSum(VerificationError):
    """Authentic chunks of the uploads do not add up to an authentic one of the sum.

    Whoever holds them can prove that the coordinator published another sum.
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
        check_transcript(self._cohort, result.transcript)
        self._masks = tuple(removal_masks(self._cohort, result.transcript))

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return count_chunks(self._cohort.manifest.length)

    def check(
        self, index: int, *, uploads: Mapping[str, ChunkProof], total: ChunkProof
    ) -> None:
        """Recompute one chunk of the sum from that chunk of every upload.

        Raises:
            FalseSum: All paths hold, and the sum does not.
            VerificationError: A path does not hold, or an upload lacks.
        """
        roots = {u.node: u.root for u in self._result.transcript.uploads}
        if uploads.keys() != roots.keys():
            raise VerificationError("not one chunk from each survivor")
        if not 0 <= index < self.count:
            raise VerificationError(f"chunk {index} of {self.count}")
        want = self._open(index, total, self._result.sum_root)
        values = aligned_empty(want.size)
        values[:] = 0
        for node, evidence in uploads.items():
            values += self._open(index, evidence, roots[node])
        add_masks(values, self._masks, start=index * CHUNK_COORDINATES)
        if not np.array_equal(values, want):
            raise FalseSum(f"chunk {index} of the sum is not the sum")

    def _open(self, index: int, evidence: ChunkProof, root: str) -> RingVector:
        left = self._cohort.manifest.length - index * CHUNK_COORDINATES
        if memoryview(evidence.chunk).nbytes != 4 * min(left, CHUNK_COORDINATES):
            raise VerificationError(f"chunk {index} has the wrong size")
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
        raise ProtocolError(f"{len(survived)} survivors")
    if len(consented) < manifest.threshold:
        raise ProtocolError(f"{len(consented)} consents, want {manifest.threshold}")
    if transcript.self_seeds.keys() != set(survived):
        raise ProtocolError("not one self seed for each survivor")
    if transcript.mask_secrets.keys() != set(shared) - set(survived):
        raise ProtocolError("not one mask key for each node that dropped out")


def _check_signatures(cohort: Cohort, transcript: Transcript) -> None:
    keys, heads = transcript.keys.digest, transcript.heads.digest
    if any(h.view != keys for h in transcript.heads.heads):
        raise VerificationError("a node saw another key list")
    if any(u.view != heads for u in transcript.uploads):
        raise VerificationError("a node shared with another set of nodes")
    agreed = transcript.survivors.digest
    if any(c.survivors != agreed for c in transcript.consents.consents):
        raise VerificationError("a node consented to another list")
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
            raise VerificationError(f"{node!r} had committed to another self seed")
    advertised = {a.node: a.mask_key for a in transcript.keys.advertisements}
    for node, secret in transcript.mask_secrets.items():
        if public_key(bytes.fromhex(secret)).hex() != advertised[node]:
            raise VerificationError(f"{node!r} had advertised another mask key")
