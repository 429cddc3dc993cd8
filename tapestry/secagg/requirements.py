"""Requirements of a node on a round that it is asked to join (TSA-1, message 0).

The coordinator proposes a manifest, and the node compares it with its own numbers, of
which none comes from the coordinator. The module also keeps the order of a node's
steps in a round, and its right to upload once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum
from threading import Lock
from typing import Final, Protocol, Self

from tapestry.errors import PolicyError, ProtocolError
from tapestry.protocol.round_manifest import (
    GateInputs,
    OuterPlan,
    PostQuantum,
    PrivacyPlan,
    RoundManifest,
    TrainingPlan,
    recommended_threshold,
)
from tapestry.secagg.quantization import Encoding

MIN_HONEST = 2  # honest nodes in every sum; a sum over one is that node's update


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """The part of a manifest that the members fixed for every round of a run."""

    layout_digest: str
    length: int
    clip_norm: str
    clip_value: str
    scale_bits: int
    post_quantum: PostQuantum
    privacy: PrivacyPlan
    training: TrainingPlan
    outer: OuterPlan
    gate: GateInputs

    @classmethod
    def of(cls, manifest: RoundManifest) -> Self:
        """Read off what a manifest proposes."""
        proposed = {each.name: getattr(manifest, each.name) for each in fields(cls)}
        return cls(**proposed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """A node's own view of the federation and its own policy.

    ``afford`` raises BudgetExhausted when the privacy budget does not cover the
    round; it must not spend.
    """

    model_digest: str  # of the parameters it would train
    roster_digest: str
    roster: Mapping[str, str]  # member name -> verify key of its node, as a vkey
    plan: RunPlan
    min_cohort: int  # its own floor
    min_colluding: int  # the least n_C it wants protection from
    hybrid_up_to: int  # larger cohorts may agree on keys without ML-KEM
    # The last round of this run for which it uploaded, 0 for none: the larger of its
    # own mark and what the log shows it committed to, lest a restored backup forget.
    highest_round: int
    afford: Callable[[RoundManifest], None]


def check_manifest(manifest: RoundManifest, terms: Requirements) -> int:
    """Compare a manifest with the node's terms.

    Guarantees:
        After it, two survivor lists cannot both reach the threshold while at most
        ``max_colluding`` nodes help the coordinator, and every sum that the node
        helps to open has at least two honest nodes in it.

    Returns:
        The smallest cohort that the node accepts at any later stage.

    Raises:
        ProtocolError: The manifest is for another model, a round that the node has
            uploaded for, another roster or another plan, or its threshold does not
            keep two survivor lists apart.
        PolicyError: The cohort or n_C is below the node's own floor, or the cohort is
            not large enough to do without ML-KEM.
        BudgetExhausted: The privacy budget does not cover the round.
    """
    number = manifest.round_number
    if manifest.model_digest != terms.model_digest:
        raise ProtocolError(
            f"round {number} is for model {manifest.model_digest}, this node holds"
            f" {terms.model_digest}",
            code="base-differs",
        )
    if number <= terms.highest_round:
        raise ProtocolError(
            f"round {number} is refused: the node uploaded for round"
            f" {terms.highest_round} already",
            code="round-already-uploaded",
        )
    _check_roster(manifest, terms)
    if RunPlan.of(manifest) != terms.plan:
        changed = [
            field.name
            for field in fields(RunPlan)
            if getattr(manifest, field.name) != getattr(terms.plan, field.name)
        ]
        raise ProtocolError(
            f"the manifest of round {number} differs from the plan of the run in"
            f" {', '.join(changed)}",
            code="run-plan-differs",
        )
    Encoding.of(manifest)
    min_cohort = _check_cohort(manifest, terms)
    terms.afford(manifest)
    return min_cohort


def _check_roster(manifest: RoundManifest, terms: Requirements) -> None:
    if manifest.roster_digest != terms.roster_digest:
        raise ProtocolError(
            f"the manifest names roster {manifest.roster_digest}, the node knows"
            f" {terms.roster_digest}",
            code="roster-differs",
        )
    for participant in manifest.participants:
        if terms.roster.get(participant.name) != participant.key:
            raise ProtocolError(
                f"{participant.name!r} is not in the roster with the key that the"
                " manifest gives it",
                code="participant-not-in-roster",
            )
    keys = {participant.key for participant in manifest.participants}
    if len(keys) != len(manifest.participants):
        raise ProtocolError(
            f"{len(manifest.participants)} participants have {len(keys)} identity keys,"
            " want one each",
            code="identity-key-duplicated",
        )


def _check_cohort(manifest: RoundManifest, terms: Requirements) -> int:
    cohort, colluding = len(manifest.participants), manifest.max_colluding
    if colluding < terms.min_colluding:
        raise PolicyError(
            f"the round is protected from {colluding} colluding nodes, the node's own"
            f" policy wants {terms.min_colluding}",
            code="max-colluding-too-small",
        )
    if manifest.post_quantum == "none" and cohort <= terms.hybrid_up_to:
        raise PolicyError(
            f"the round's {cohort} nodes would agree on keys without ML-KEM; the node's"
            f" own policy allows it above {terms.hybrid_up_to} nodes only",
            code="post-quantum-required",
        )
    least = recommended_threshold(cohort, max_colluding=colluding)
    if not least <= manifest.threshold <= cohort:
        raise ProtocolError(
            f"threshold {manifest.threshold} of {cohort} nodes, want {least} to"
            f" {cohort}",
            code="threshold-out-of-range",
        )
    min_cohort = max(manifest.min_cohort, manifest.threshold, terms.min_cohort)
    if cohort < min_cohort:
        raise PolicyError(
            f"cohort of {cohort} nodes, want at least {min_cohort}",
            code="cohort-too-small",
        )
    if min_cohort - colluding < MIN_HONEST:
        raise ProtocolError(
            f"{min_cohort} nodes less {colluding} colluding ones leave fewer than"
            f" {MIN_HONEST} honest nodes in the sum",
            code="honest-nodes-too-few",
        )
    return min_cohort


class ClientStep(IntEnum):
    """The next function of ``client`` that a node may call in a round.

    Each is a stage of the round, but for the collection of masked inputs, which takes
    a node three steps.
    """

    SHARE_KEYS = 1
    RECEIVE_SHARES = 2
    RESERVE = 3
    MASK_INPUT = 4
    CHECK_CONSISTENCY = 5
    UNMASK = 6
    NONE = 7


@dataclass(slots=True)
class ClientProgress:
    """A counter shared by all states of one round on one node; it only grows.

    It makes an old state worthless: no second upload, consent or reveal can be sent
    from one that was kept.
    """

    step: ClientStep = ClientStep.SHARE_KEYS
    _lock: Lock = field(default_factory=Lock, repr=False)

    def require(self, step: ClientStep) -> None:
        """Refuse unless a step is the next one.

        Raises:
            ProtocolError: Another step is next: a message out of order, or a replay.
        """
        if self.step is not step:
            raise ProtocolError(
                f"the next step of the round is {self.step.name.lower()}, "
                f"not {step.name.lower()}",
                code="step-out-of-order",
            )

    def advance(self, step: ClientStep) -> None:
        """Go on to the step after one.

        Raises:
            ProtocolError: ``step`` is not the next one.
        """
        with self._lock:
            self.require(step)
            self.step = ClientStep(step + 1)


class Marks(Protocol):
    """A node's durable high-water marks: for which round of a run it uploaded last."""

    def highest(self, run_id: str) -> int:
        """Return the number of that round, 0 for none."""
        ...

    def raise_to(self, run_id: str, round_number: int) -> None:
        """Record that the node is about to upload; on disk before it returns.

        Raises:
            ProtocolError: The round is not above the highest.
        """
        ...


_ISSUER: Final = object()


class Reservation:
    """Proof that the high-water mark of a round is on disk; good for one upload."""

    __slots__ = ("context",)

    def __init__(self, context: bytes, *, issuer: object) -> None:
        """Take the context of the round; only :func:`issue_reservation` can."""
        if issuer is not _ISSUER:
            raise ValueError("reservations come from raising a high-water mark")
        self.context = context


def issue_reservation(
    manifest: RoundManifest, *, context: bytes, marks: Marks
) -> Reservation:
    """Raise the durable mark, then give the right to upload.

    Raises:
        ProtocolError: The node has uploaded for this round or a later one.
    """
    marks.raise_to(manifest.run_id, manifest.round_number)
    return Reservation(context, issuer=_ISSUER)
