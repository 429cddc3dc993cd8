"""Events by which members decide: acceptance, proposals, votes, keys and exit.

Their bodies are fixed here, so that each log and each verifier spells them alike;
``member_rules``, ``vote_rules`` and ``proposal_rules`` say which are valid.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from tapestry.keys import VerifyKey
from tapestry.schema import Digest, InOrder, Name, Printable, Strict
from tapestry_governance.events.event_body import (
    Base,
    Body,
    Code,
    Hash,
    Index,
    Language,
    SignatureKey,
    WitnessKey,
)
from tapestry_governance.events.federation_events import (
    MAX_MEMBERS,
    Member,
    Policy,
)

Signature = Annotated[str, Field(pattern="^[0-9a-f]{128}$")]  # Ed25519, hex
Version = Annotated[int, Field(ge=1, le=1_000_000)]

_SIGNING: TypeAdapter[str] = TypeAdapter(SignatureKey)
_KEYS: dict[str, TypeAdapter[str]] = {
    "witness": TypeAdapter(WitnessKey),
    "transport": TypeAdapter(Hash),
}


class Possession(Strict):
    """Signatures of a request's digest by its keys, see ``events.possession``."""

    node: Signature
    witness: Signature
    community: Signature


class MembershipRequest(Strict):
    """An institution's request to be a member: its keys and what it brings."""

    name: Name
    root: SignatureKey
    node: SignatureKey
    witness: WitnessKey
    community: SignatureKey
    transport: Hash  # digest of the public key that registers with the SuperLink
    languages: Annotated[tuple[Language, ...], Field(max_length=50)]
    records: Annotated[int, Field(ge=0)]  # rounded down to ten, or to one percent
    held_out: Digest | None  # of public held-out data

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = [self.root, self.node, self.witness, self.community]
        if len({VerifyKey.parse(key).public for key in keys}) != len(keys):
            raise ValueError("one key, one purpose: a key occurs twice")
        return self

    @property
    def member(self) -> Member:
        """The institution with its keys."""
        return Member(
            name=self.name,
            root=self.root,
            node=self.node,
            witness=self.witness,
            community=self.community,
        )


class CharterAccepted(Body, type="charter.accepted", roles=("root",)):
    """A founder's acceptance of the charter, which brings its keys into the log."""

    charter: Digest  # of entry 0
    request: MembershipRequest  # its digest stands in the charter
    possession: Possession
    # The other members that read the fingerprint out; two, or all where fewer.
    readers: Annotated[
        tuple[Name, ...], Field(min_length=1, max_length=MAX_MEMBERS), InOrder
    ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.request.name in self.readers:
            raise ValueError("the readers are other members")
        return self


class PolicyChange(Strict):
    """Proposes the next policy."""

    kind: Literal["policy"]
    policy: Policy


class Admission(Strict):
    """Proposes a new member."""

    kind: Literal["admit"]
    request: MembershipRequest
    possession: Possession


class Removal(Strict):
    """Proposes to end a membership."""

    kind: Literal["remove"]
    member: Name


class RootReplacement(Strict):
    """Proposes a new root key for a member that lost its own."""

    kind: Literal["root"]
    member: Name
    key: SignatureKey


class CoordinatorReplacement(Strict):
    """Proposes another coordinator and log key."""

    kind: Literal["coordinator"]
    name: Name
    key: SignatureKey
    log: SignatureKey
    address: Annotated[Printable, Field(min_length=1, max_length=255)]
    authority: Digest  # of its certificate


class PauseProposal(Strict):
    """Proposes to open no round, or to lift such a pause."""

    kind: Literal["pause", "resume"]


class Withdrawal(Strict):
    """Proposes to withdraw a release or an adapter."""

    kind: Literal["withdraw"]
    subject: Digest  # of the manifest
    name: Base | Name
    reason: Code


class ConstitutionChange(Strict):
    """Proposes that a member's constitution takes the place of the one before."""

    kind: Literal["constitution"]
    member: Name
    version: Version
    text: Digest


Proposal = Annotated[
    PolicyChange
    | Admission
    | Removal
    | RootReplacement
    | CoordinatorReplacement
    | PauseProposal
    | Withdrawal
    | ConstitutionChange,
    Field(discriminator="kind"),
]


class ProposalMade(Body, type="proposal.made", roles=("root",)):
    """A proposal; it lapses when the roster changes before it is decided."""

    roster: Digest  # of the members who may vote
    proposal: Proposal


class VoteCast(Body, type="vote.cast", roles=("root",)):
    """A member's vote on a proposal or a published release; the last one counts."""

    subject: Index  # of the proposal or release in the log
    entry: Digest  # of that entry
    vote: Literal["yes", "no", "abstain"]
    reasons: Digest | None  # salted, of a document with the reasons


class KeyRotated(Body, type="key.rotated", roles=("root",)):
    """A new key of a member for one purpose."""

    purpose: Literal["root", "node", "witness", "community", "transport", "receipts"]
    key: Annotated[str, Field(max_length=300)]  # a vkey; a digest for transport
    reason: Literal["routine", "compromised"]
    possession: Signature  # of the new key

    @model_validator(mode="after")
    def _check(self) -> Self:
        _KEYS.get(self.purpose, _SIGNING).validate_python(self.key)
        return self


class MemberLeft(Body, type="member.left", roles=("root",)):
    """A member's exit, which needs nobody's approval."""
