"""Events about the federation itself: its charter, members and policy."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tapestry.keys import VerifyKey
from tapestry.schema import (
    Digest,
    InOrder,
    KeyText,
    Name,
    Noise,
    Plain,
    Printable,
    Software,
    Strict,
    check_ascending,
)
from tapestry_governance.events.event_body import (
    Attempt,
    Body,
    Code,
    Licence,
    SignatureKey,
    WitnessKey,
)

MAX_MEMBERS = 128
ALWAYS_REFUSED = frozenset({"compromised", "unlawful_data"})
"""Reasons for a withdrawal of which no policy only warns."""


def _share(text: str) -> str:
    part, whole = map(int, text.split("/"))
    if part > whole:
        raise ValueError(f"{text} is more than all")
    return text


Share = Annotated[
    str,
    Field(pattern="^[1-9][0-9]?/[1-9][0-9]?$", examples=["2/3"]),
    AfterValidator(_share),
]
"""Of the members who may vote; ``rules.thresholds`` says how many they are."""


class Voting(Strict):
    """The yes votes that each kind of decision takes."""

    policy: Share
    release: Share
    admit: Share
    remove: Share
    root: Share
    coordinator: Share
    withdraw: Share
    constitution: Share
    resume: Share
    pause: Annotated[int, Field(ge=2, le=MAX_MEMBERS)]  # members


USUAL_VOTING = Voting(
    policy="1/2",
    release="2/3",
    admit="3/4",
    remove="3/4",
    root="3/4",
    coordinator="3/4",
    withdraw="2/3",
    constitution="1/2",
    resume="1/2",
    pause=2,
)


class OutsideWitness(Strict):
    """A witness that is no member: an archive, a regulator, a university."""

    name: Name
    key: WitnessKey
    url: Annotated[str, Field(pattern=r"^https?://[!-~]{1,240}$")]  # asked there


class GivenBase(Strict):
    """A model that a run may start from.

    The parameters tell where it came from: with another tokenizer, template or licence
    it has another identity, and its numbers were trained on the same records.
    """

    model: Digest  # the identity
    parameters: Digest


class Policy(Strict):
    """The federation's own limits, which the rules of the log apply."""

    version: Annotated[int, Field(ge=1)]
    min_cohort: Annotated[int, Field(ge=2)]
    max_colluding: Annotated[int, Field(ge=0)]  # a round must tolerate at least these
    noise: tuple[Noise, ...]
    epsilon_cap: Plain  # per institution and block, over the whole log
    max_delta: Plain
    # A run may start from these models.
    bases: Literal["any"] | Annotated[tuple[GivenBase, ...], Field(min_length=1)]
    # A node runs one of these.
    software: Literal["any"] | Software
    adapter_licences: tuple[Licence, ...]
    max_attempt: Attempt
    max_accounts: Annotated[int, Field(ge=0)]  # of adapters, per member and release
    max_checkpoint_age: Annotated[int, Field(ge=1)]  # seconds
    voting: Voting
    witnesses: Annotated[tuple[OutsideWitness, ...], Field(max_length=16)]
    # So many of these must cosign, beside the quorum of the members.
    outside_quorum: Annotated[int, Field(ge=0, le=16)]
    # What members withdrew for one of these may be used, with a warning; else not.
    withdrawn_warns: Annotated[tuple[Code, ...], Field(max_length=16), InOrder]

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(tuple(each.name for each in self.witnesses))
        if len({each.public for each in self.witness_keys}) != len(self.witnesses):
            raise ValueError("two outside witnesses have one key")
        if self.outside_quorum > len(self.witnesses):
            raise ValueError(
                f"outside_quorum {self.outside_quorum} of {len(self.witnesses)}"
                " outside witnesses"
            )
        if grave := ALWAYS_REFUSED.intersection(self.withdrawn_warns):
            raise ValueError(f"{min(grave)} always refuses what was withdrawn for it")
        return self

    def refuses(self, reason: str) -> bool:
        """Return whether what was withdrawn for a reason is not to be used.

        Guarantees:
            A reason that the policy does not name refuses.
        """
        return reason not in self.withdrawn_warns

    def gravity(self, reason: str) -> int:
        """Return 0 if a reason warns, 1 if it refuses, 2 if it does by every policy."""
        return self.refuses(reason) + (reason in ALWAYS_REFUSED)

    def said_of(self, reason: str) -> str:
        """Say what becomes of what was withdrawn for a reason."""
        does = "refuses it" if self.refuses(reason) else "only warns"
        return f"the policy {does}"

    @property
    def witness_keys(self) -> list[VerifyKey]:
        """The keys of the outside witnesses."""
        return [VerifyKey.parse(each.key) for each in self.witnesses]

    def given_base(self, model: str) -> GivenBase | None:
        """Return what it names under an identity, if it names that."""
        named = () if self.bases == "any" else self.bases
        return next((each for each in named if each.model == model), None)


class Member(Strict):
    """An institution and its keys, one per purpose."""

    name: Name
    root: SignatureKey  # policy
    node: SignatureKey  # contributions, accounting, declarations
    witness: WitnessKey  # cosigns checkpoints
    community: SignatureKey  # adapters

    @property
    def verify_keys(self) -> list[VerifyKey]:
        """The four keys."""
        texts = (self.root, self.node, self.witness, self.community)
        return [VerifyKey.parse(text) for text in texts]


class Coordinator(Strict):
    """The party that orders rounds; it is no member and counts in no quorum."""

    name: Name
    key: SignatureKey


class Founder(Strict):
    """An institution of the charter, and the request that holds its keys."""

    name: Name
    request: Digest


class CharterAdopted(Body, type="charter.adopted", roles=("coordinator",)):
    """Entry 0: the founders, the coordinator, how to reach it, and the first policy.

    A founder's keys are in its request, which comes with its ``charter.accepted``: the
    keys of 128 founders would not fit an entry.
    """

    log: SignatureKey  # signs checkpoints; its name is the origin
    coordinator: Coordinator
    address: Annotated[Printable, Field(min_length=1, max_length=255)]  # to dial
    authority: Digest  # of the certificate that vouches for the address
    members: Annotated[tuple[Founder, ...], Field(min_length=2, max_length=MAX_MEMBERS)]
    policy: Policy

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = check_ascending(tuple(member.name for member in self.members))
        if self.coordinator.name in names:
            raise ValueError("the coordinator is no member")
        if len({member.request for member in self.members}) != len(names):
            raise ValueError("two members have one request")
        log, key = VerifyKey.parse(self.log), VerifyKey.parse(self.coordinator.key)
        if log.public == key.public or log.keyid == key.keyid:
            raise ValueError("one key, one purpose: a key occurs twice")
        return self

    @property
    def requests(self) -> dict[str, str]:
        """The digests of the founders' requests, by name."""
        return {member.name: member.request for member in self.members}

    @property
    def origin(self) -> str:
        """The log's name, as its checkpoints give it."""
        return VerifyKey.parse(self.log).name


def roster_digest(members: tuple[Member, ...]) -> str:
    """Return the digest of the members and their node keys."""
    return _Roster(nodes=tuple((m.name, m.node) for m in members)).digest


class _Roster(Strict):
    nodes: tuple[tuple[Name, KeyText], ...]
