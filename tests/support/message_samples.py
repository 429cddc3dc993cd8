"""One body of every kind of message, from a round of four in which one drops out."""

from collections.abc import Mapping
from typing import Any

from tapestry.protocol.messages import (
    AdvertiseKeysRequest,
    ApplyResultRequest,
    CheckChunkRequest,
    ChunkPaths,
    ChunkRequest,
    CosignReply,
    CosignRequest,
    HelloRequest,
    Identity,
    Kind,
    Publication,
    PublishAdapterRequest,
    Reason,
    ReceiptReply,
    Refusal,
    RoundName,
    ShowHeldOutRequest,
)
from tapestry.protocol.secagg_messages import PROTOCOL
from tapestry.schema import Strict
from tests.support.secagg_cohort import Federation


def sample_bodies() -> Mapping[Kind, Strict]:
    """Build a body for each kind; none of its lists and maps is empty."""
    bodies = _round_bodies()
    note = "origin\n5\nroot\n"
    paths = ChunkPaths(total=("0" * 64,), uploads={"a.example": ("1" * 64, "2" * 64)})
    asks = (ChunkRequest(round_number=1, chunk=0),)
    bodies |= {
        Kind.HELLO: HelloRequest(nonce="3" * 64),
        Kind.IDENTITY: Identity(
            name="fr",
            proof="4" * 128,
            other_proof="6" * 128,
            protocol=PROTOCOL,
            software="sha256:" + "5" * 64,
            size=7,
            lacks=RoundName(run_id="run-1", round_number=1),
            checkpoint=note,
            asks=asks,
            held_out="sha256:" + "7" * 64,
            refuses=None,
            rests=False,
            epsilon_limit="8",
        ),
        Kind.COSIGN: CosignRequest(start=1, checkpoint=note, cosigned=(note,)),
        Kind.COSIGNATURE: CosignReply(lines=("— fr/witness AAAA\n",), head=note),
        Kind.ADVERTISE_KEYS: AdvertiseKeysRequest(checkpoint=note),
        Kind.APPLY_RESULT: ApplyResultRequest(
            run_id="run-1",
            round_number=1,
            checkpoint=note,
            result=bodies.pop(Kind.APPLY_RESULT),
        ),
        Kind.SHOW_HELD_OUT: ShowHeldOutRequest(
            run_id="run-1", files=("fr.jsonl", "id.jsonl")
        ),
        Kind.CHECK_CHUNK: CheckChunkRequest(round_number=1, chunk=1, proofs=paths),
        Kind.RECEIPT: ReceiptReply(
            asks=(ChunkRequest(round_number=1, chunk=2),),
            lacks=RoundName(run_id="run-1", round_number=2),
        ),
        Kind.PUBLISH_ADAPTER: PublishAdapterRequest(name="base-1", checkpoint=note),
        Kind.PUBLICATION: Publication(files=("README.md", "tapestry/proof.txt")),
        Kind.REFUSAL: Refusal(reason=Reason.BUDGET_EXHAUSTED),
    }
    return bodies


def _round_bodies() -> dict[Kind, Any]:
    federation = Federation.of(4)
    federation.advertise_keys()
    bodies: dict[Kind, Any] = {Kind.SHARE_KEYS: federation.message}
    bodies[Kind.ADVERTISED_KEYS] = federation.message.advertisements[0]
    sharing = federation.stage
    federation.share_keys()
    first, *left = federation.names()
    bodies[Kind.SHARED_KEYS] = sharing.kept[first].head
    bodies[Kind.COLLECT_MASKED_INPUTS] = federation.message[first].heads
    federation.receive_shares()
    federation.collect_masked_inputs([first, *left[:-1]])
    bodies[Kind.MASKED_INPUT] = federation.uploads[first].head
    bodies[Kind.CHECK_CONSISTENCY] = federation.message
    federation.check_consistency()
    bodies[Kind.UNMASK] = federation.message
    bodies[Kind.CONSENT] = federation.message.consents[0]
    unmasking = federation.stage
    bodies[Kind.APPLY_RESULT] = federation.result(federation.unmask())
    bodies[Kind.UNMASKING_SHARES] = unmasking.kept[first]
    return bodies
