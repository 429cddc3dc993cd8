"""Manifest of a round: its cohort, its plans, and the context that binds them."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from tapestry.encoding import decode_decimal, digest
from tapestry.protocol.stages import RoundStage
from tapestry.schema import (
    Digest,
    KeyText,
    Name,
    Plain,
    Printable,
    Software,
    Strict,
    check_ascending,
)

MAX_COHORT = 1000
MAX_HYBRID_COHORT = 550  # the transcript is then one document, whichever drop out


class Participant(Strict):
    """A node of the cohort; its place in the list, from 1, is its share number."""

    name: Name
    key: KeyText  # of the node


def _told_as_one(
    value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> Any:
    """Tell one fault of an option, in place of one for each type that it may have."""
    if info.mode == "json" and isinstance(value, list):
        value = tuple(value)  # JSON has no other list
    try:
        return validate(value)
    except ValidationError:
        raise ValueError(
            "must be a whole number below 2**53, a plain decimal, text of up to 200"
            " characters, or a list of up to 1000 of them",
        ) from None


Option = (
    Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)]
    | Annotated[Printable, Field(max_length=200)]
)
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Options = Annotated[
    dict[
        OptionName,
        Annotated[
            Option | Annotated[tuple[Option, ...], Field(max_length=1000)],
            WrapValidator(_told_as_one),
        ],
    ],
    Field(max_length=50, examples=[{"sequence_length": 128}]),
]
"""What one workload's plans say beyond every plan: whole numbers, texts, lists.

A decimal that is not whole is text in plain spelling (``"0.5"``), so that it is exact
and has one digest; a whole one is a whole number.
"""


class TrainingPlan(Strict):
    """The computation of every node on its records: a union, tagged by ``workload``.

    The common part is read by all: by secure aggregation, by the accounting of privacy,
    by an auditor. ``options`` belong to the workload that the tag names; its plan model
    reads them (``workloads.base.read_options``), on nodes and coordinator alike, and
    refuses what it does not know. The log holds any workload's plan, so an auditor
    needs none of them.
    """

    workload: Name
    parameterization: Literal["full", "low_rank"]
    rank: Annotated[int, Field(ge=0, le=1024)]  # 0 with "full"
    targets: tuple[Annotated[Printable, Field(max_length=80)], ...]  # names; low_rank
    factor_seed: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # draws A; low_rank
    steps: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]  # expected, in records
    optimizer: Literal["sgd", "adam"]
    learning_rate: Plain
    weight_decay: Plain
    options: Options


class NoNoise(Strict):
    """Training without noise, for public text and studies: nothing is promised."""

    noise: Literal["none"]


class _DpSgd(Strict):
    unit: Literal["record"]
    adjacency: Literal["add-remove"]
    clip_norm: Plain  # per record, L2, of its gradient
    noise_multiplier: Plain
    target_delta: Plain


class LocalNoise(_DpSgd):
    """DP-SGD with each node's own noise at full scale."""

    noise: Literal["local"]


class SharedNoise(_DpSgd):
    """One step, whose noise adds up inside the masked sum (``noise_shares``)."""

    noise: Literal["shared"]
    min_share: Plain  # least noise multiplier of one node's share


# The noise that every node adds, and the promise it makes for it. ``none`` is allowed
# only where the institutions' policies name it.
DpPlan = LocalNoise | SharedNoise
PrivacyPlan = Annotated[
    LocalNoise | SharedNoise | NoNoise, Field(discriminator="noise")
]


class _OuterStep(Strict):
    learning_rate: Plain
    max_norm: Plain  # gate: L2 norm of the mean update
    max_loss_increase: Plain  # gate: mean score on public held-out data


class MeanStep(_OuterStep):
    """The mean update itself, times a rate."""

    optimizer: Literal["mean"]


class NesterovStep(_OuterStep):
    """Nesterov's momentum over the mean updates of a run, as in DiLoCo."""

    optimizer: Literal["nesterov"]
    momentum: Plain


class AdamStep(_OuterStep):
    """Adam over the mean updates of a run, as in FedAdam."""

    optimizer: Literal["adam"]


# How the mean update moves the base.
OuterPlan = Annotated[
    MeanStep | NesterovStep | AdamStep, Field(discriminator="optimizer")
]


class GateInputs(Strict):
    """The public data and the evaluation by which the acceptance gate scores a step."""

    held_out: Digest  # of names and bytes of the held-out files
    evaluation: Digest  # of the measure's name and settings


class StatisticSegment(Strict):
    """A bounded statistic that travels in the masked vector, behind the update."""

    name: Name
    entries: Annotated[int, Field(ge=1, le=1 << 20)]
    bound: Plain  # L2 bound of one unit's part in the sum


class StageDeadlines(Strict):
    """Seconds that the coordinator waits for replies, by stage of the aggregation."""

    advertise_keys: Annotated[int, Field(ge=1)]
    share_keys: Annotated[int, Field(ge=1)]
    collect_masked_inputs: Annotated[int, Field(ge=1)]
    check_consistency: Annotated[int, Field(ge=1)]
    unmask: Annotated[int, Field(ge=1)]

    def of(self, stage: RoundStage) -> int:
        """Return the seconds of one of ``SECAGG_STAGES``."""
        seconds: int = getattr(self, stage.value)
        return seconds


# Key agreement of a round: X25519 and ML-KEM-768 together, or X25519 alone.
PostQuantum = Literal["mlkem768", "none"]


class RoundManifest(Strict):
    """The terms of a round, fixed before it starts (TSA-1, message 0).

    The log holds it inside ``round.opened``; ``context`` binds every key, mask,
    share and signature of the round to these bytes.
    """

    protocol: Literal["tapestry-secagg/2"]
    federation: Name
    run_id: Name
    purpose: Literal["train", "survey", "calibrate"]
    round_number: Annotated[int, Field(ge=1, le=1_000_000)]
    attempt: Annotated[int, Field(ge=1, le=1000)]
    model_digest: Digest
    layout_digest: Digest
    software: Software  # a node runs one of these
    policy_digest: Digest
    roster_digest: Digest
    participants: Annotated[
        tuple[Participant, ...], Field(min_length=2, max_length=MAX_COHORT)
    ]
    max_colluding: Annotated[int, Field(ge=0)]  # n_C
    threshold: Annotated[int, Field(ge=2)]  # t
    min_cohort: Annotated[int, Field(ge=2)]  # n_min
    ring_bits: Literal[32]
    length: Annotated[int, Field(ge=1, le=2**40)]  # d
    clip_norm: Plain  # L2 bound of the update
    clip_value: Plain  # L-infinity bound of the update
    scale_bits: Annotated[int, Field(ge=0, le=30)]  # grid step 2**-scale_bits
    statistics: Annotated[tuple[StatisticSegment, ...], Field(max_length=8)]
    training: TrainingPlan
    privacy: PrivacyPlan
    outer: OuterPlan
    gate: GateInputs
    deadlines: StageDeadlines
    post_quantum: PostQuantum

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = check_ascending(tuple(p.name for p in self.participants))
        if self.post_quantum == "mlkem768" and len(names) > MAX_HYBRID_COHORT:
            raise ValueError(
                f"a round with ML-KEM has at most {MAX_HYBRID_COHORT} nodes; a larger"
                " one takes post_quantum none"
            )
        for plain in (self.clip_norm, self.clip_value):
            if decode_decimal(plain) <= 0:
                raise ValueError("clip bounds must be positive")
        training = self.training
        if self.privacy.noise == "shared":
            if (training.steps, training.optimizer) != (1, "sgd"):
                raise ValueError("shared noise takes one step of SGD a round")
            if training.weight_decay != "0":
                raise ValueError("shared noise takes no weight decay")
        return self

    @property
    def context(self) -> bytes:
        """Hash that every key, mask and signature of the round is bound to."""
        data = b"tapestry-secagg/2" + self.encode()
        return bytes.fromhex(digest(data)[7:])


def recommended_threshold(cohort: int, *, max_colluding: int) -> int:
    """Return the least t that two survivor lists cannot both reach: 2t > n + n_C."""
    return (cohort + max_colluding) // 2 + 1
