"""Messages between node and coordinator: bytes and numbers only.

A node never calls the coordinator. It answers requests, one reply to each::

    coordinator asks          node replies         TSA-1
    hello                     identity
    cosign                    cosignature
    advertise_keys            advertised_keys      0, 1
    share_keys                shared_keys          2, 3
    collect_masked_inputs     masked_input         4, 5
    check_consistency         consent              6, 7
    unmask                    unmasking_shares     8, 9
    apply_result              receipt              10
    check_chunk               receipt              a chunk that the node drew
    publish_adapter           publication

This list is closed: it is all that can leave a node. ``body`` is canonical JSON;
``attachments`` carry bulk (log entries, chunks of vectors, files). Any reply may
be ``refusal`` instead, with a reason code and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from tapestry.encoding import decode_json
from tapestry.protocol.stages import RoundStage
from tapestry.schema import Strict

BODY_LIMIT = 8 << 20
MAX_ASKS = 64  # chunks that a node may ask for at a time


class Kind(StrEnum):
    """Every message there is."""

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
    APPLY_RESULT = "apply_result"
    CHECK_CHUNK = "check_chunk"
    RECEIPT = "receipt"
    PUBLISH_ADAPTER = "publish_adapter"
    PUBLICATION = "publication"
    REFUSAL = "refusal"


class Reason(StrEnum):
    """Why a node refuses; the only thing a refusal says."""

    NOT_IN_LOG = "not_in_log"
    INCONSISTENT_VIEW = "inconsistent_view"
    STALE_CHECKPOINT = "stale_checkpoint"
    QUORUM_MISSING = "quorum_missing"
    POLICY_NOT_ADOPTED = "policy_not_adopted"
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
        """Whether waiting cannot mend it: a person has to change something first."""
        return self in _FINAL


_WORDS = {
    Reason.NOT_IN_LOG: "the log does not prove the request",
    Reason.INCONSISTENT_VIEW: "the log contradicts what the node saw of it before",
    Reason.STALE_CHECKPOINT: "the log's newest checkpoint is too old",
    Reason.QUORUM_MISSING: "too few members cosigned the log",
    Reason.POLICY_NOT_ADOPTED: "the federation has not adopted this policy",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One request or reply."""

    kind: Kind
    body: bytes = b"{}"
    attachments: Sequence[bytes | memoryview] = ()

    @property
    def size(self) -> int:
        """How many bytes of payload it carries."""
        return len(self.body) + sum(memoryview(a).nbytes for a in self.attachments)

    def json(self) -> Any:
        """Decode the body.

        Raises:
            ProtocolError: Too long or not canonical.
        """
        return decode_json(self.body, limit=BODY_LIMIT)


class ChunkRequest(Strict):
    """A chunk that a node wants to see, of the sum of a round and of every upload."""

    round_number: Annotated[int, Field(ge=1)]
    chunk: Annotated[int, Field(ge=0)]
