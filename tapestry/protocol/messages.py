"""Messages between node and coordinator: a closed list of kinds, a typed body for each.

A node never calls the coordinator. It answers requests, one reply to each::

    coordinator asks          node replies         TSA-1
    hello                     identity
    cosign                    cosignature
    advertise_keys            advertised_keys      0, 1
    share_keys                shared_keys          2, 3
    collect_masked_inputs     masked_input         4, 5
    check_consistency         consent              6, 7
    unmask                    unmasking_shares     8, 9
    show_held_out             receipt              the public data of the gate
    apply_result              receipt              10
    check_chunk               receipt              a chunk that the node drew
    publish_adapter           publication            of the run's release, or one that
                                                     the node handed in the entry of

This list is closed: it is all that can leave a node. Any reply may be ``refusal``
instead, with a reason code and nothing else.

A body travels as canonical JSON, attachments carry bulk: log entries, sealed shares,
chunks of vectors, files. ``encode_message`` and ``decode_body`` are the only way from a
body to a message and back; ``BODIES`` says which body belongs to which kind.

Guarantees:
    What ``decode_body`` accepts has one spelling: ``encode_message`` of the body gives
    the same bytes. Unknown and missing fields, values of another type and attachments
    where the kind has none are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Final, TypeVar

from pydantic import Field

from tapestry.errors import ProtocolError
from tapestry.protocol.folder_faults import FolderFault
from tapestry.protocol.secagg_messages import (
    PAIR_BYTES,
    Advertisement,
    Consent,
    ConsentList,
    HeadList,
    Hex32,
    Hex64,
    KeyList,
    Result,
    Reveal,
    ShareHead,
    SurvivorList,
    UploadHead,
)
from tapestry.protocol.stages import RoundStage
from tapestry.schema import (
    DOCUMENT_LIMIT,
    Digest,
    FileName,
    InOrder,
    Name,
    Plain,
    Strict,
)

BODY_LIMIT = DOCUMENT_LIMIT
NOTE_LIMIT = 1 << 18  # characters of a signed checkpoint
MAX_ASKS = 64  # chunks that a node may ask for at a time
MAX_HELD_OUT_FILES = 1000  # one for each member
MAX_HELD_OUT_BYTES = 4 << 20  # each member scores them in each round
MAX_SUBMITTED = 64  # entries that a node submits to the log with a cosignature
MAX_FILES = 64  # of an adapter
LEADING_ENTRIES = 2  # of the log, in front of the bulk of an upload or publication

Bulk = Sequence[bytes | memoryview]
Note = Annotated[str, Field(max_length=NOTE_LIMIT)]
RoundNumber = Annotated[int, Field(ge=1, le=1_000_000)]


class Kind(StrEnum):
    """The kind of a message; the list is closed."""

    HELLO = "hello"
    IDENTITY = "identity"
    COSIGN = "cosign"
    COSIGNATURE = "cosignature"
    ADVERTISE_KEYS = RoundStage.ADVERTISE_KEYS.value
    ADVERTISED_KEYS = "advertised_keys"
    SHARE_KEYS = RoundStage.SHARE_KEYS.value
    SHARED_KEYS = "shared_keys"
    COLLECT_MASKED_INPUTS = RoundStage.COLLECT_MASKED_INPUTS.value
    MASKED_INPUT = "masked_input"
    CHECK_CONSISTENCY = RoundStage.CHECK_CONSISTENCY.value
    CONSENT = "consent"
    UNMASK = RoundStage.UNMASK.value
    UNMASKING_SHARES = "unmasking_shares"
    SHOW_HELD_OUT = "show_held_out"
    APPLY_RESULT = "apply_result"
    CHECK_CHUNK = "check_chunk"
    RECEIPT = "receipt"
    PUBLISH_ADAPTER = "publish_adapter"
    PUBLICATION = "publication"
    REFUSAL = "refusal"


class Reason(StrEnum):
    """The reason of a refusal; a refusal says nothing else."""

    NOT_IN_LOG = "not_in_log"
    INCONSISTENT_VIEW = "inconsistent_view"
    STALE_CHECKPOINT = "stale_checkpoint"
    QUORUM_MISSING = "quorum_missing"
    SOFTWARE_UNAPPROVED = "software_unapproved"
    BASE_MISMATCH = "base_mismatch"
    BUDGET_EXHAUSTED = "budget_exhausted"
    LOCAL_POLICY = "local_policy"
    PROTOCOL = "protocol"
    UNKNOWN_ROUND = "unknown_round"
    SUM_UNCHECKED = "sum_unchecked"
    MODEL_UNSUPPORTED = "model_unsupported"
    PLAN_UNSUPPORTED = "plan_unsupported"
    MACHINE_UNFIT = "machine_unfit"
    TRAINING_FAILED = "training_failed"
    MAINTENANCE = "maintenance"
    INTERNAL = "internal"

    @property
    def words(self) -> str:
        """The code as a clause for people; it says no more than the code does."""
        return _WORDS[self]

    @property
    def is_final(self) -> bool:
        """True where waiting does not help: a person has to change something first."""
        return self in _FINAL


_WORDS = {
    Reason.NOT_IN_LOG: "the log does not prove the request",
    Reason.INCONSISTENT_VIEW: "the log contradicts what the node saw of it before",
    Reason.STALE_CHECKPOINT: "the log's newest checkpoint is too old",
    Reason.QUORUM_MISSING: "too few members cosigned the log",
    Reason.SOFTWARE_UNAPPROVED: "other software runs there than the round names",
    Reason.BASE_MISMATCH: "the node holds another base",
    Reason.BUDGET_EXHAUSTED: "the privacy budget does not cover it",
    Reason.LOCAL_POLICY: "the institution's own policy does not allow it",
    Reason.PROTOCOL: "a message breaks the protocol",
    Reason.UNKNOWN_ROUND: "the node takes no part in such a round",
    Reason.SUM_UNCHECKED: "a published sum is unchecked or was found false",
    Reason.MODEL_UNSUPPORTED: "the model cannot be trained as the plan asks",
    Reason.PLAN_UNSUPPORTED: "the plan does not fit the model or the records",
    Reason.MACHINE_UNFIT: "the node's machine cannot do the training",
    Reason.TRAINING_FAILED: "the node's training failed before and awaits its operator",
    Reason.MAINTENANCE: "the node is not ready; its own log says why",
    Reason.INTERNAL: "an unexpected error; the node's own log has it",
}
_FINAL = frozenset(
    {
        Reason.SOFTWARE_UNAPPROVED,
        Reason.BUDGET_EXHAUSTED,
        Reason.MODEL_UNSUPPORTED,
        Reason.PLAN_UNSUPPORTED,
        Reason.MACHINE_UNFIT,
        Reason.TRAINING_FAILED,
    }
)


class ChunkRequest(Strict):
    """A chunk that a node asks for, of the sum of a round and of every upload."""

    round_number: Annotated[int, Field(ge=1)]
    chunk: Annotated[int, Field(ge=0)]


class RoundName(Strict):
    """Names a round of a run."""

    run_id: Name
    round_number: RoundNumber


# The chunks that a node drew and has not seen yet.
Asks = Annotated[tuple[ChunkRequest, ...], Field(max_length=MAX_ASKS)]


class HelloRequest(Strict):
    """Asks a connection whose it is, by a fresh nonce, and for the node's progress."""

    nonce: Hex32


class Identity(Strict):
    """A node's name, proven for its connection, and progress: after a hello."""

    name: Name
    proof: Hex64  # by the node key, as ``connection_proof`` says
    # By its new key, or its former one, while a rotation is under way: the log of one
    # side may be ahead of the other's.
    other_proof: Hex64 | None
    protocol: Annotated[
        str, Field(pattern="^[a-z0-9-]{1,32}/[0-9]{1,4}$")
    ]  # as TSA-1's
    software: Digest  # that runs there
    size: Annotated[int, Field(ge=0)]  # how many entries of the log it has
    lacks: RoundName | None  # the result that it takes next, of what its log has
    checkpoint: Note | None  # the newest one that it accepted
    asks: Asks
    held_out: Digest | None  # the public data of the gate that it has
    refuses: FolderFault | None  # all but a greeting: its folder is at fault
    rests: bool  # it begins no round now: paused, out of hours, short of disk, leaving
    epsilon_limit: Plain  # of its own policy, over all that it ever spends


class CosignRequest(Strict):
    """Asks a node to mirror the attached entries and to cosign the checkpoint."""

    start: Annotated[int, Field(ge=0)]  # index of the first attached entry
    checkpoint: Note
    # The newest one that a quorum cosigned, after those by which other witnesses came
    # into force: a node that was away steps over them.
    cosigned: Annotated[tuple[Note, ...], Field(max_length=65)]


class CosignReply(Strict):
    """Cosignature lines; entries that the node submits to the log are attached.

    There are two while a witness key gives way to another one: the old line counts by
    the set that was accepted last, the new one by the set in force. The head of the
    outbox is a note of the node's key over those entries
    (``tapestry_governance.log.outbox_heads``).
    """

    lines: Annotated[
        tuple[Annotated[str, Field(max_length=1000)], ...],
        Field(min_length=1, max_length=2),
    ]
    head: Annotated[str, Field(max_length=4096)]


class AdvertiseKeysRequest(Strict):
    """Asks a node to join the round that the log has open (TSA-1, message 0)."""

    checkpoint: Note


class ShowHeldOutRequest(Strict):
    """Shows the public data on which a run's gate scores; the files are attached."""

    run_id: Name
    files: Annotated[
        tuple[FileName, ...], Field(max_length=MAX_HELD_OUT_FILES), InOrder
    ]


class ApplyResultRequest(Strict):
    """Shows the result of a round; the chunks of its sum are attached."""

    run_id: Name
    round_number: RoundNumber
    checkpoint: Note
    result: Result


class ChunkPaths(Strict):
    """The Merkle paths of one chunk, the lowest hash first."""

    total: tuple[Hex32, ...]
    uploads: dict[Name, tuple[Hex32, ...]]


class CheckChunkRequest(Strict):
    """Shows a chunk that the node asked for: attached, of the sum and each upload."""

    round_number: RoundNumber
    chunk: Annotated[int, Field(ge=0)]
    proofs: ChunkPaths


class PublishAdapterRequest(Strict):
    """Names a release, on which a node may publish an adapter, or one handed in."""

    name: Name
    checkpoint: Note


class ReceiptReply(Strict):
    """Says that a node has taken what it was shown, and what it wants next."""

    asks: Asks
    lacks: RoundName | None


class Publication(Strict):
    """Names the files of an adapter, which are attached behind two log entries."""

    files: Annotated[tuple[FileName, ...], Field(max_length=MAX_FILES), InOrder]


class Refusal(Strict):
    """Gives the reason of a refusal; for the log, a signed entry may be attached."""

    reason: Reason


BODIES: Final[Mapping[Kind, type[Strict]]] = MappingProxyType(
    {
        Kind.HELLO: HelloRequest,
        Kind.IDENTITY: Identity,
        Kind.COSIGN: CosignRequest,
        Kind.COSIGNATURE: CosignReply,
        Kind.ADVERTISE_KEYS: AdvertiseKeysRequest,
        Kind.ADVERTISED_KEYS: Advertisement,
        Kind.SHARE_KEYS: KeyList,
        Kind.SHARED_KEYS: ShareHead,
        Kind.COLLECT_MASKED_INPUTS: HeadList,
        Kind.MASKED_INPUT: UploadHead,
        Kind.CHECK_CONSISTENCY: SurvivorList,
        Kind.CONSENT: Consent,
        Kind.UNMASK: ConsentList,
        Kind.UNMASKING_SHARES: Reveal,
        Kind.SHOW_HELD_OUT: ShowHeldOutRequest,
        Kind.APPLY_RESULT: ApplyResultRequest,
        Kind.CHECK_CHUNK: CheckChunkRequest,
        Kind.RECEIPT: ReceiptReply,
        Kind.PUBLISH_ADAPTER: PublishAdapterRequest,
        Kind.PUBLICATION: Publication,
        Kind.REFUSAL: Refusal,
    }
)
_KINDS: Final = MappingProxyType({body: kind for kind, body in BODIES.items()})
_OTHERS = 999  # nodes of a round, but for one
_ENTRY, _CHUNK, _CHUNKS = 65_535, 1 << 20, 1 << 22  # bytes, bytes, of a vector
BULK_LIMITS: Final[Mapping[Kind, tuple[int, int]]] = MappingProxyType(
    {
        Kind.COSIGN: (1 << 20, 1 << 32),
        Kind.COSIGNATURE: (MAX_SUBMITTED, MAX_SUBMITTED * _ENTRY),
        Kind.SHARED_KEYS: (1, _OTHERS * PAIR_BYTES),
        Kind.COLLECT_MASKED_INPUTS: (1, _OTHERS * PAIR_BYTES),
        Kind.MASKED_INPUT: (
            LEADING_ENTRIES + _CHUNKS,
            LEADING_ENTRIES * _ENTRY + _CHUNKS * _CHUNK,
        ),
        Kind.SHOW_HELD_OUT: (MAX_HELD_OUT_FILES, MAX_HELD_OUT_BYTES),
        Kind.APPLY_RESULT: (_CHUNKS, _CHUNKS * _CHUNK),
        Kind.CHECK_CHUNK: (1001, 1001 * _CHUNK),  # of the sum and of each upload
        Kind.PUBLICATION: (LEADING_ENTRIES + MAX_FILES, 1 << 31),
        Kind.REFUSAL: (1, _ENTRY),
    }
)
"""The attachments of a message by its kind: how many, and bytes together.

Any other kind has none. What a round's plan says is compared later, and exactly.
"""
BodyT = TypeVar("BodyT", bound=Strict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One request or reply, as bytes: what a transport carries."""

    kind: Kind
    body: bytes = b"{}"
    attachments: Bulk = ()

    @property
    def size(self) -> int:
        """The payload in bytes: body and attachments."""
        return len(self.body) + sum(memoryview(a).nbytes for a in self.attachments)


def encode_message(body: Strict, attachments: Bulk = ()) -> Message:
    """Build the message of a body; its type decides the kind.

    Raises:
        ValueError: The type is no body of a message, or its kind has no attachments:
            a bug of the caller.
    """
    kind = _KINDS.get(type(body))
    if kind is None or (attachments and kind not in BULK_LIMITS):
        raise ValueError(f"no message has a {type(body).__name__} and attachments")
    return Message(kind=kind, body=body.encode(), attachments=attachments)


def decode_body(message: Message) -> Strict:
    """Read the body of a message, as the type of its kind.

    Raises:
        ProtocolError: The body is over the limit, not canonical JSON or not of that
            type, or there are attachments on a kind that has none.
    """
    return _decode(message, BODIES[message.kind])


def expect_body(message: Message, want: type[BodyT]) -> BodyT:
    """Read the body of a message that must be of one kind.

    Raises:
        ProtocolError: The message is of another kind, or ``decode_body`` refuses it.
    """
    if message.kind is not _KINDS[want]:
        raise ProtocolError(
            f"{message.kind} instead of {_KINDS[want]}", code="message-kind-unexpected"
        )
    return _decode(message, want)


def _decode(message: Message, want: type[BodyT]) -> BodyT:
    check_attachments(
        message.kind, [memoryview(each).nbytes for each in message.attachments]
    )
    return want.decode(message.body, limit=BODY_LIMIT)


def check_attachments(kind: Kind, sizes: Sequence[int]) -> None:
    """Compare the sizes of attachments with the limits of a kind.

    Raises:
        ProtocolError: There are too many, or too many bytes; or the kind has none.
    """
    most, longest = BULK_LIMITS.get(kind, (0, 0))
    if sizes and not most:
        raise ProtocolError(
            f"{kind} with {len(sizes)} attachments, want none",
            code="attachments-not-allowed",
        )
    if len(sizes) > most or sum(sizes) > longest:
        raise ProtocolError(
            f"{kind} with {len(sizes)} attachments of {sum(sizes)} bytes, the limits"
            f" are {most} and {longest}",
            code="attachments-too-large",
        )


def split_entries(attachments: Bulk) -> tuple[bytes, bytes, Bulk]:
    """Split the attachments of an upload or publication: two log entries, the bulk.

    Raises:
        ProtocolError: There are fewer than two attachments.
    """
    if len(attachments) < LEADING_ENTRIES:
        raise ProtocolError(
            f"{len(attachments)} attachments, want {LEADING_ENTRIES} log entries first",
            code="log-entries-missing",
        )
    first, second = map(bytes, attachments[:LEADING_ENTRIES])
    return first, second, attachments[LEADING_ENTRIES:]
