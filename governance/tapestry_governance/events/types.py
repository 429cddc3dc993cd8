"""What can be said in the log: one body per kind of event.

A body holds public facts only: names of institutions, digests, counts, decimal
strings. No record, no personal name, no number that a node computed on its records
outside the privacy accounting. ``governance/EVENTS.md`` is the format document.
"""

import math
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tapestry.encoding import decode_decimal
from tapestry.errors import ProtocolError
from tapestry.keys import Algorithm, VerifyKey
from tapestry.protocol.messages import Reason
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.stages import RoundStage
from tapestry.schema import Digest, Name, Noise, Plain, Strict

Role = Literal["coordinator", "root", "node", "community"]

Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]  # a reason
Label = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._/-]{0,62}$")]  # a metric
Licence = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,79}$")]  # SPDX
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$")]
Base = Annotated[str, Field(pattern=r"^base-(0|[1-9][0-9]{0,5})$")]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Index = Annotated[int, Field(ge=0)]
RoundNumber = Annotated[int, Field(ge=1, le=1_000_000)]
Attempt = Annotated[int, Field(ge=1, le=1000)]
Scores = Annotated[dict[Label, Plain], Field(max_length=200)]


def _signing(text: str) -> str:
    return _key(text, Algorithm.SIGNATURE)


def _cosigning(text: str) -> str:
    return _key(text, Algorithm.COSIGNATURE)


def _key(text: str, algorithm: Algorithm) -> str:
    try:
        key = VerifyKey.parse(text)
    except ProtocolError as error:
        raise ValueError(str(error)) from None
    if key.algorithm is not algorithm:
        raise ValueError(f"{key.keyid} was made for another purpose")
    return text


SignatureKey = Annotated[str, Field(max_length=300), AfterValidator(_signing)]
WitnessKey = Annotated[str, Field(max_length=300), AfterValidator(_cosigning)]


class Body(Strict):
    """What an event says. ``roles`` are the roles that may sign it."""

    type: ClassVar[str] = ""
    roles: ClassVar[tuple[Role, ...]] = ()


class Policy(Strict):
    """The federation's rules that the fold holds every event to."""

    version: Annotated[int, Field(ge=1)]
    min_cohort: Annotated[int, Field(ge=2)]
    max_colluding: Annotated[int, Field(ge=0)]  # a round must tolerate at least these
    noise: tuple[Noise, ...]
    epsilon_cap: Plain  # per node and run
    max_delta: Plain
    # A run may start from these.
    bases: Literal["any"] | Annotated[tuple[Digest, ...], Field(min_length=1)]
    adapter_licences: tuple[Licence, ...]
    max_attempt: Attempt
    max_checkpoint_age: Annotated[int, Field(ge=1)]  # seconds


class Member(Strict):
    """An institution and its keys, one per purpose."""

    name: Name
    root: SignatureKey  # policy
    node: SignatureKey  # contributions, accounting, declarations
    witness: WitnessKey  # cosigns checkpoints
    community: SignatureKey  # adapters


class Coordinator(Strict):
    """Who orders rounds; no member, counts in no quorum."""

    name: Name
    key: SignatureKey


class CharterAdopted(Body):
    """Entry 0: who takes part, under which rules."""

    type: ClassVar[str] = "charter.adopted"
    roles: ClassVar[tuple[Role, ...]] = ("coordinator",)
    log: SignatureKey  # signs checkpoints; its name is the origin
    coordinator: Coordinator
    members: Annotated[tuple[Member, ...], Field(min_length=2, max_length=128)]
    policy: Policy

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [member.name for member in self.members]
        if names != sorted(set(names)) or self.coordinator.name in names:
            raise ValueError("members must be distinct and in order of name")
        texts = [self.log, self.coordinator.key]
        for member in self.members:
            texts += [member.root, member.node, member.witness, member.community]
        keys = [VerifyKey.parse(text) for text in texts]
        if len({key.public for key in keys}) != len(keys):
            raise ValueError("one key, one purpose: a key occurs twice")
        if len({key.keyid for key in keys}) != len(keys):
            raise ValueError("two keys share a key id")
        return self

    @property
    def origin(self) -> str:
        """The log's name."""
        return VerifyKey.parse(self.log).name


class PolicyAdopted(Body):
    """New rules, signed by the root keys of more than half of the members."""

    type: ClassVar[str] = "policy.adopted"
    roles: ClassVar[tuple[Role, ...]] = ("root",)
    policy: Policy


class DataDeclared(Body):
    """What an institution trains on, without showing it; sets its sampling rate."""

    type: ClassVar[str] = "data.declared"
    roles: ClassVar[tuple[Role, ...]] = ("node",)
    dataset: Digest  # a salted commitment, not a digest of the records
    records: Annotated[int, Field(ge=1)]  # a lower bound is safe, see EVENTS.md
    unit: Literal["record"]
    languages: Annotated[tuple[Language, ...], Field(max_length=50)]  # none: no text
    licences: Annotated[tuple[Licence, ...], Field(max_length=50)]


class RoundOpened(Body):
    """A round's whole plan, fixed before anybody is asked to train."""

    type: ClassVar[str] = "round.opened"
    roles: ClassVar[tuple[Role, ...]] = ("coordinator",)
    manifest: RoundManifest


class InRound(Body):
    """What belongs to one attempt at one round."""

    run_id: Name
    round_number: RoundNumber
    attempt: Attempt


class ContributionCommitted(InRound):
    """A node's word on what it uploaded: the root over its masked chunks."""

    type: ClassVar[str] = "contribution.committed"
    roles: ClassVar[tuple[Role, ...]] = ("node",)
    context: Hash  # of the round manifest
    masked_root: Hash


class ContributionRefused(InRound):
    """A node did not take part; the code is all it says."""

    type: ClassVar[str] = "contribution.refused"
    roles: ClassVar[tuple[Role, ...]] = ("node",)
    reason: Reason


class UnboundedLoss(Strict):
    """What training without noise costs: nothing is promised any more."""

    mechanism: Literal["none"]


class PrivacyLoss(Strict):
    """What training with noise costs, with everything that recomputing it takes.

    ``epsilon_run`` composes all that the node spent in the run up to and including this
    event, at ``target_delta``. Where a part of the run counts on noise of other nodes,
    the trust model is ``shared`` and ``epsilon_fallback`` composes the run with the
    node's own noise alone; otherwise both are one, and it is null.
    """

    mechanism: Literal[  # of each step
        "poisson-subsampled-gaussian", "poisson-subsampled-skellam"
    ]
    unit: Literal["record"]
    adjacency: Literal["add-remove"]
    trust_model: Literal["local", "shared"]  # of epsilon_run
    clip_norm: Plain
    noise_multiplier: Plain  # of all noise that is counted on
    own_multiplier: Plain  # of the node's own
    shares: Annotated[int, Field(ge=1, le=1000)]  # how many nodes' noise that is
    coordinates: Annotated[int, Field(ge=0, le=2**40)]  # 0 with Gaussian noise
    bound: Plain  # clip norm in steps of the grid of integer noise; 0 with Gaussian
    sampling_rate: Plain
    target_delta: Plain
    epsilon_run: Plain
    epsilon_fallback: Plain | None
    accountant: Annotated[str, Field(pattern=r"^[a-z][a-z0-9./-]{0,62}$")]
    accountant_version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.trust_model == "shared") != (self.epsilon_fallback is not None):
            raise ValueError("a fallback goes with noise that is shared")
        positive = (self.clip_norm, self.own_multiplier, self.target_delta)
        if any(decode_decimal(text) <= 0 for text in positive):
            raise ValueError("clip norm, noise multiplier and delta are positive")
        if not 0 < decode_decimal(self.sampling_rate) <= 1:
            raise ValueError("the sampling rate lies in (0, 1]")
        self._check_grid()
        reach = decode_decimal(self.own_multiplier) * math.sqrt(self.shares)
        if decode_decimal(self.noise_multiplier) > reach + 1e-9:
            raise ValueError("the shares do not add up to the noise multiplier")
        return self

    def _check_grid(self) -> None:
        integer = self.mechanism == "poisson-subsampled-skellam"
        if integer and self.trust_model != "shared":
            raise ValueError("integer noise is noise that is shared")
        if integer != (self.coordinates > 0) or integer != (self.bound != "0"):
            raise ValueError("a grid goes with integer noise")


class DpAccounted(Body):
    """What a node spent on a round (``round_number``, ``attempt``) or on an adapter.

    An adapter is named by ``adapter`` and ``version``.
    """

    type: ClassVar[str] = "dp.accounted"
    roles: ClassVar[tuple[Role, ...]] = ("node",)
    run_id: Name
    round_number: RoundNumber | None
    attempt: Attempt | None
    adapter: Name | None
    version: Annotated[int, Field(ge=1)] | None
    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    loss: Annotated[UnboundedLoss | PrivacyLoss, Field(discriminator="mechanism")]

    @property
    def promise(self) -> PrivacyLoss | None:
        """Return what the noise bounds; None without noise."""
        return None if self.loss.mechanism == "none" else self.loss

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.round_number is None) == (self.adapter is None):
            raise ValueError("either a round or an adapter is accounted for")
        if (self.round_number is None) != (self.attempt is None):
            raise ValueError("a round has an attempt")
        if (self.adapter is None) != (self.version is None):
            raise ValueError("an adapter has a version")
        return self


class Dropped(Strict):
    """A participant whose update is not in the sum, and where it was lost."""

    name: Name
    stage: RoundStage


class RoundClosed(InRound):
    """What came of a round."""

    type: ClassVar[str] = "round.closed"
    roles: ClassVar[tuple[Role, ...]] = ("coordinator",)
    outcome: Literal["applied", "rejected"]
    reason: Code | None  # why it was rejected
    included: tuple[Name, ...]  # in order of name
    dropped: tuple[Dropped, ...]  # in order of name
    commitments: tuple[Index, ...]  # log indexes, in the order of ``included``
    aggregate_digest: Digest
    base_before: Digest
    base_after: Digest
    outer_digest: Digest  # of the outer optimizer's state after the round
    metrics: Scores

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [entry.name for entry in self.dropped]
        for group in (list(self.included), names):
            if group != sorted(set(group)):
                raise ValueError("names must be distinct and in order")
        if len(self.commitments) != len(self.included):
            raise ValueError("one commitment per included node")
        if (self.outcome == "rejected") != (self.reason is not None):
            raise ValueError("a rejected round has a reason, an applied one has none")
        return self


class RoundAborted(InRound):
    """A round that ended without a sum."""

    type: ClassVar[str] = "round.aborted"
    roles: ClassVar[tuple[Role, ...]] = ("coordinator",)
    stage: RoundStage | None  # none: the coordinator died, and does not know it
    reason: Code


class EvaluationRecorded(Body):
    """Scores of a base or adapter on public text.

    Nodes cannot say it: what a node computes on its records is charged, or stays.
    """

    type: ClassVar[str] = "evaluation.recorded"
    roles: ClassVar[tuple[Role, ...]] = ("coordinator",)
    subject: Digest  # parameters of a base, manifest of an adapter
    suite: Name
    suite_digest: Digest
    scores: Scores


class ReleasePublished(Body):
    """A base model that anybody may use."""

    type: ClassVar[str] = "release.published"
    roles: ClassVar[tuple[Role, ...]] = ("coordinator",)
    name: Base
    parameters_digest: Digest
    manifest_digest: Digest
    run_id: Name
    round_number: RoundNumber
    previous: Base | None


class AdapterPublished(Body):
    """A community's adapter on a released base."""

    type: ClassVar[str] = "adapter.published"
    roles: ClassVar[tuple[Role, ...]] = ("community",)
    name: Name
    version: Annotated[int, Field(ge=1)]
    country: Annotated[str, Field(min_length=1, max_length=60)]
    language: Language
    licence: Licence
    base: Base
    base_digest: Digest
    manifest_digest: Digest
    epsilon: Plain | None  # as in its dp.accounted; null = nothing is promised
    target_delta: Plain | None  # likewise
    evaluation: Scores

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epsilon is None) != (self.target_delta is None):
            raise ValueError("epsilon and delta make one promise, or none")
        return self


BODIES = MappingProxyType(
    {
        body.type: body
        for body in (
            CharterAdopted,
            PolicyAdopted,
            DataDeclared,
            RoundOpened,
            ContributionCommitted,
            ContributionRefused,
            DpAccounted,
            RoundClosed,
            RoundAborted,
            EvaluationRecorded,
            ReleasePublished,
            AdapterPublished,
        )
    }
)


def roster_digest(members: tuple[Member, ...]) -> str:
    """Name the members and their node keys, as a round manifest does."""
    return _Roster(nodes=tuple((m.name, m.node) for m in members)).digest


class _Roster(Strict):
    nodes: tuple[tuple[Name, str], ...]
