"""Messages between node and coordinator: bytes and numbers only.

A node never calls the coordinator. It answers requests, one reply to each::

    coordinator asks          node replies              TSA-1
    hello                     identity
    cosign                    cosignature
    offer                     advertisement | refusal   0, 1
    keys                      shares                    2, 3
    ciphertexts               upload                    4, 5
    survivors                 consent                   6, 7
    consents                  reveal                    8, 9
    result                    receipt                   10
    evidence                  receipt                   chunks that the node drew
    released                  publication | refusal

This list is closed: it is all that can leave a node. ``body`` is canonical JSON;
``attachments`` carry bulk (log entries, chunks of vectors, files). Any reply may
be ``refusal`` instead, with a reason code and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from tapestry.encoding import canonical_json, decode_fraction, decode_json, digest
from tapestry.errors import ProtocolError

CHUNK_BYTES = 1 << 20
BODY_LIMIT = 8 << 20
MAX_ASKS = 64  # chunks that a node may ask for at a time


class Kind(StrEnum):
    """Every message there is."""

    HELLO = "hello"
    IDENTITY = "identity"
    COSIGN = "cosign"
    COSIGNATURE = "cosignature"
    OFFER = "offer"
    ADVERTISEMENT = "advertisement"
    KEYS = "keys"
    SHARES = "shares"
    CIPHERTEXTS = "ciphertexts"
    UPLOAD = "upload"
    SURVIVORS = "survivors"
    CONSENT = "consent"
    CONSENTS = "consents"
    REVEAL = "reveal"
    RESULT = "result"
    RECEIPT = "receipt"
    EVIDENCE = "evidence"
    RELEASED = "released"
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


def _plain_decimal(text: str) -> str:
    try:
        decode_fraction(text)
    except ProtocolError as error:
        raise ValueError(str(error)) from None
    return text


Noise = Literal["none", "local", "shared"]
Digest = Annotated[
    str,
    Field(
        pattern="^sha256:[0-9a-f]{64}$",
        description="a digest: sha256: and 64 hex digits in lower case",
        examples=["sha256:" + "0" * 64],
    ),
]
Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$",
        description="a name: up to 63 of a-z, 0-9, dots and hyphens",
        examples=["italy"],
    ),
]
Plain = Annotated[
    str, Field(max_length=40, examples=["0.5"]), AfterValidator(_plain_decimal)
]


class Strict(BaseModel):
    """Outside data: unknown keys, lenient types and later changes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    def decode(cls, data: bytes, *, limit: int = BODY_LIMIT) -> Self:
        """Read from canonical JSON.

        Raises:
            ProtocolError: Not canonical, or not of this shape.
        """
        decode_json(data, limit=limit)
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ProtocolError(f"{cls.__name__} {where}: {first['msg']}") from None

    def encode(self) -> bytes:
        """Print as canonical JSON; the inverse of decode."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """The digest of the canonical bytes."""
        return digest(self.encode())


class ChunkRequest(Strict):
    """A chunk that a node wants to see, of the sum of a round and of every upload."""

    round_number: Annotated[int, Field(ge=1)]
    chunk: Annotated[int, Field(ge=0)]


class Participant(Strict):
    """A node of the cohort; its place in the list, from 1, is its share number."""

    name: Name
    key: Annotated[str, Field(max_length=300)]  # verify key of the node, as a vkey


Option = (
    Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)]
    | Annotated[str, Field(max_length=200)]
)
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Options = Annotated[
    dict[OptionName, Option | Annotated[tuple[Option, ...], Field(max_length=1000)]],
    Field(max_length=50),
]
"""What one workload's plans say beyond every plan: whole numbers, texts, lists."""


class TrainingPlan(Strict):
    """What every node computes on its records: a union, tagged by ``workload``.

    The common part is read by all: by secure aggregation, by the accounting of privacy,
    by an auditor. ``options`` belong to the workload that the tag names; its plan model
    reads them (``workloads.base.read_options``), on nodes and coordinator alike, and
    refuses what it does not know. The log holds any workload's plan, so an auditor
    needs none of them.
    """

    workload: Name
    parameterization: Literal["full", "low_rank"]
    rank: Annotated[int, Field(ge=0, le=1024)]  # 0 with "full"
    targets: tuple[Annotated[str, Field(max_length=80)], ...]  # module names; low_rank
    factor_seed: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # draws A; low_rank
    steps: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]  # expected, in records
    optimizer: Literal["sgd", "adam"]
    learning_rate: Plain
    weight_decay: Plain
    options: Options


class PrivacyPlan(Strict):
    """The noise that every node adds, and the promise it makes for it.

    ``noise`` is ``none`` only where the institutions' policies allow it (public
    text, studies); ``local`` is DP-SGD with the node's own noise at full scale;
    ``shared`` is one step, whose noise adds up inside the masked sum
    (``noise_shares``).
    """

    noise: Annotated[Noise, Field(examples=["local"])]
    unit: Literal["record"]
    adjacency: Literal["add-remove"]
    clip_norm: Plain  # per record, L2, of its gradient
    noise_multiplier: Plain
    min_share: Plain  # least noise multiplier of one node's share; "0" unless shared
    target_delta: Plain


class OuterPlan(Strict):
    """How the mean update moves the base."""

    optimizer: Literal["mean", "nesterov", "adam"]
    learning_rate: Plain
    momentum: Plain
    max_norm: Plain  # gate: L2 norm of the mean update
    max_loss_increase: Plain  # gate: mean score on public held-out data


class PublicWeights(Strict):
    """How much each participant counts: public, whole, fixed before the round."""

    cap: Annotated[int, Field(ge=1, le=1000)]
    weights: tuple[Annotated[int, Field(ge=1, le=1000)], ...]  # in order of name

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(weight > self.cap for weight in self.weights):
            raise ValueError("a weight is above the cap")
        return self


class RoundManifest(Strict):
    """Everything that a round is, fixed before it starts (TSA-1, message 0).

    The log holds it inside ``round.opened``; ``context`` binds every key, mask,
    share and signature of the round to these bytes.
    """

    protocol: Literal["tapestry-secagg/1"]
    federation: Name
    run_id: Name
    round_number: Annotated[int, Field(ge=1, le=1_000_000)]
    attempt: Annotated[int, Field(ge=1, le=1000)]
    model_digest: Digest
    layout_digest: Digest
    software_digest: Digest
    policy_digest: Digest
    roster_digest: Digest
    participants: Annotated[
        tuple[Participant, ...], Field(min_length=2, max_length=1000)
    ]
    max_colluding: Annotated[int, Field(ge=0)]  # n_C
    threshold: Annotated[int, Field(ge=2)]  # t
    min_cohort: Annotated[int, Field(ge=2)]  # n_min
    ring_bits: Literal[32]
    length: Annotated[int, Field(ge=1, le=2**40)]  # d
    clip_norm: Plain  # L2 bound of the update
    clip_value: Plain  # L-infinity bound of the update
    scale_bits: Annotated[int, Field(ge=0, le=30)]  # grid step 2**-scale_bits
    weighting: Literal["uniform"] | PublicWeights
    training: TrainingPlan
    privacy: PrivacyPlan
    outer: OuterPlan
    deadlines: dict[Name, Annotated[int, Field(ge=1)]]  # seconds per stage
    post_quantum: None  # reserved: a hybrid key agreement

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [p.name for p in self.participants]
        if len(set(names)) != len(names) or names != sorted(names):
            raise ValueError("participants must be distinct and in order of name")
        weights = self.weighting
        if weights != "uniform" and len(weights.weights) != len(names):
            raise ValueError("one weight per participant")
        for plain in (self.clip_norm, self.clip_value):
            if decode_fraction(plain) <= 0:
                raise ValueError("clip bounds must be positive")
        self._check_noise()
        return self

    def _check_noise(self) -> None:
        training = self.training
        if self.privacy.noise != "shared":
            if self.privacy.min_share != "0":
                raise ValueError("min_share is for noise that is shared")
            return
        if (training.steps, training.optimizer) != (1, "sgd"):
            raise ValueError("shared noise takes one step of SGD a round")
        if training.weight_decay != "0" or self.weighting != "uniform":
            raise ValueError("shared noise takes no weight decay and equal weights")

    @property
    def context(self) -> bytes:
        """Hash that every key, mask and signature of the round is bound to."""
        data = b"tapestry-secagg/1" + self.encode()
        return bytes.fromhex(digest(data)[7:])

    def participant(self, name: str) -> Participant:
        """Find a node of the cohort.

        Raises:
            ProtocolError: It is not in the cohort.
        """
        for participant in self.participants:
            if participant.name == name:
                return participant
        raise ProtocolError(f"{name!r} is not in the cohort")


def recommended_threshold(cohort: int, *, max_colluding: int) -> int:
    """The least t for which two survivor lists cannot both reach it: 2t > n + n_C."""
    return (cohort + max_colluding) // 2 + 1
