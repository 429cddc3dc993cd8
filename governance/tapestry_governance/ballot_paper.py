"""The file by which a steward votes on a machine without a network.

It holds what is voted on, as the log has it, with a proof; the steward's machine needs
nothing else but the root key::

    any machine with a log     ballot     entry, proof, policy in force, voters
    machine with the root key  vote       an entry, signed after it was shown in words
    any member's node          submit     into the log, past any one coordinator

Guarantees:
    A vote names its subject by index and digest, so a ballot that shows something else
    than the log has makes a vote that the log refuses. The text that is shown is that
    of the entry itself.

    A proposal of another coordinator may have no proof: the old one is gone, and no
    other can sign a checkpoint before the vote. Then the ballot has the newest
    checkpoint that members cosigned, and its index is beyond that.

    What a ballot proves, and what only its maker says (``plain_words`` marks that):

    ================  ==============================================================
    entry, genesis    covered by the cosigned checkpoint
    voters            of a proposal their names: it has the digest; else said
    policy in force   a policy of this log. For the next one it is proven to be what
                      that replaces if a round was opened under it, or it is that of
                      the charter: one policy of a version comes into force. Else said
    votes needed      recomputed where the policy that is replaced is proven; else said
    votes, root keys  said; the log refuses a vote by another key
    trust policy      said, unless the steward gives the one that it holds
    ================  ==============================================================

Not protected:
    Without the steward's own trust policy all of it may be of another log. Whether its
    proposer signed the entry, and may propose this, is checked by those who cosigned
    the log, not here. A machine that shows one thing and signs another.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Literal, Self, TypedDict, get_args

from pydantic import Field, model_validator

from tapestry.encoding import decode_base64, digest, encode_base64
from tapestry.errors import ConfigError, RuleError
from tapestry.keys import SigningKey, VerifyKey
from tapestry.schema import Name, Strict
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.proof import HEADER, Proof
from tapestry.tlog.trust_policy import CosignedCheckpoint, TrustPolicy
from tapestry_governance.events.envelope import (
    Author,
    Seen,
    Signed,
    open_entry,
    sign_entry,
)
from tapestry_governance.events.event_body import Body, Index, SignatureKey
from tapestry_governance.events.federation_events import (
    MAX_MEMBERS,
    CharterAdopted,
    Policy,
)
from tapestry_governance.events.member_events import (
    CoordinatorReplacement,
    PolicyChange,
    Proposal,
    ProposalMade,
    Removal,
    RootReplacement,
    VoteCast,
)
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.member_view import MemberView
from tapestry_governance.rules.ballots import Ballot, Vote, voters_digest
from tapestry_governance.rules.replay import apply
from tapestry_governance.rules.thresholds import (
    eligible,
    needed_for_policy,
    votes_needed,
)

MAX_BYTES = 1 << 20
VOTES: Mapping[str, Vote] = MappingProxyType({v: v for v in get_args(Vote)})
"""The votes by their words."""
_SALT = 32  # bytes


class CoveredEntry(Strict):
    """An entry of the log with its proof."""

    entry: Annotated[str, Field(max_length=88_000)]  # base64
    proof: Annotated[str, Field(max_length=262_144)]  # a tlog-proof, or a checkpoint

    @model_validator(mode="after")
    def _check(self) -> Self:
        decode_base64(self.entry)
        return self


class BallotPaper(CoveredEntry):
    """A proposal or release, with all that a voter needs beside the root key."""

    kind: Literal["tapestry-ballot/2"]
    federation: Name
    index: Index
    trust: Annotated[str, Field(max_length=262_144)]  # the policy in force
    charter: CoveredEntry
    policy: Policy  # in force
    source: CoveredEntry | None  # has that policy; None: the charter has
    voters: Annotated[dict[Name, SignatureKey], Field(max_length=MAX_MEMBERS)]
    votes: Annotated[dict[Name, Vote], Field(max_length=MAX_MEMBERS)]
    needed: Annotated[int, Field(ge=1, le=MAX_MEMBERS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPaper:
    """A ballot paper whose entry is in the log that its trust policy names.

    One on another coordinator may lie beyond the checkpoint (``is_proven``).
    """

    paper: BallotPaper
    signed: Signed
    checkpoint: Checkpoint
    genesis: str  # digest of the log's entry 0
    replaces: bool  # proven: it is the next policy, after the paper's own

    @property
    def is_proven(self) -> bool:
        """True if the checkpoint covers the entry."""
        return self.paper.index < self.checkpoint.size

    @property
    def proposal(self) -> Proposal | None:
        """The proposal; None for a release."""
        body = self.signed.event.body
        return body.proposal if isinstance(body, ProposalMade) else None

    @property
    def release(self) -> ReleasePublished | None:
        """The release; None for a proposal."""
        body = self.signed.event.body
        return body if isinstance(body, ReleasePublished) else None


def find_ballot(view: MemberView, index: int) -> Ballot:
    """Return the votes on a proposal or release.

    Raises:
        ConfigError: The entry is neither.
    """
    ballot: Ballot | None = view.state.ballots.get(index)
    if ballot is None:
        raise ConfigError(
            f"entry {index} is neither a proposal nor a release; tapestry governance"
            " list shows which entries are",
            code="ballot-missing",
        )
    return ballot


def index_of(view: MemberView, subject: str) -> int:
    """Return the index of what may be voted on: given as such, or a release's name.

    Raises:
        ConfigError: The log has no release of this name, and it is no number.
    """
    if (release := view.state.releases.get(subject)) is not None:
        return view.state.release_named(release.name).index
    if not subject.isdecimal() or len(subject) > 15:
        raise ConfigError(
            f"{subject!r} is neither the index of an entry nor a release; tapestry"
            " governance list shows them",
            code="usage",
        )
    return int(subject)


def make_paper(view: MemberView, index: int) -> BallotPaper:
    """Make the ballot paper of an entry that may be voted on.

    Raises:
        ConfigError: The entry is no proposal and no release.
    """
    ballot, state = find_ballot(view, index), view.state
    source = _source(view)
    return BallotPaper(
        kind="tapestry-ballot/2",
        federation=state.federation,
        index=index,
        trust=view.trust.encode().decode(),
        charter=CoveredEntry(**_covered(view, 0)),
        policy=state.policy,
        source=None if source is None else CoveredEntry(**_covered(view, source)),
        voters={name: state.members[name].root for name in eligible(state, ballot)},
        votes=dict(ballot.votes),
        needed=votes_needed(state, ballot),
        **_covered(view, index),
    )


class _Covered(TypedDict):
    entry: str
    proof: str


def _covered(view: MemberView, index: int) -> _Covered:
    entry = encode_base64(view.entries[index])
    return _Covered(entry=entry, proof=view.proof(index).decode())


def _source(view: MemberView) -> int | None:
    """Return the entry that tells the policy in force; None if the charter does.

    The first round under it proves that it came into force, its proposal does not.
    """
    state, size = view.state, read_claim(view.note).size
    if state.policy == state.charter.policy:
        return None
    version = state.policy.version
    rounds = [r.opened for r in state.rounds.values() if r.policy.version == version]
    if rounds and min(rounds) < size:
        return min(rounds)
    change = PolicyChange(kind="policy", policy=state.policy)
    return next(
        ballot.index
        for ballot in state.ballots.values()
        if ballot.proposal == change and ballot.outcome == "in_force"
    )


def open_paper(paper: BallotPaper, *, trust: TrustPolicy | None = None) -> OpenedPaper:
    """Check a ballot paper.

    ``trust`` is the policy that the steward holds; without it the paper's own counts.

    Raises:
        ProtocolError: A part is malformed.
        RuleError: It is no proposal and no release, or of another federation; or its
            policy, voters or votes needed are not those that its entries show.
        VerificationError: An entry is not in the log that the trust policy names.
        QuorumError: Too few witnesses cosigned that log.
    """
    entry = decode_base64(paper.entry)
    signed = open_entry(entry)
    trust = trust or TrustPolicy.parse(paper.trust.encode())
    index, opened = _proven(paper, signed, trust)
    if (index, signed.event.federation) != (paper.index, paper.federation):
        raise _differs(
            f"it says entry {paper.index} of {paper.federation!r}, and proves entry"
            f" {index} of {signed.event.federation!r}"
        )
    if not isinstance(signed.event.body, ProposalMade | ReleasePublished):
        raise RuleError(
            f"entry {paper.index} is {signed.event.type}, on which there is no vote",
            code="vote-without-subject",
        )
    start, charter = _open_covered(paper.charter, trust, opened.checkpoint)
    if start != 0:
        raise _differs(f"its charter is entry {start}, not entry 0")
    told = charter
    if paper.source is not None:
        _, told = _open_covered(paper.source, trust, opened.checkpoint)
    was_in_force = _tells(told.event.body, paper.policy)
    replaces = False
    if isinstance(signed.event.body, ProposalMade):
        _check_voters(paper, signed.event.body)
        replaces = _check_change(
            paper, signed.event.body.proposal, was_in_force=was_in_force
        )
    return OpenedPaper(
        paper=paper,
        signed=signed,
        checkpoint=opened.checkpoint,
        genesis=charter.digest,
        replaces=replaces,
    )


def _differs(said: str) -> RuleError:
    return RuleError(
        f"the ballot is not as a log has it: {said}; export it again",
        code="ballot-inconsistent",
    )


def _open_covered(
    covered: CoveredEntry, trust: TrustPolicy, checkpoint: Checkpoint
) -> tuple[int, Signed]:
    """Return an entry and its index, under the checkpoint of the ballot's own."""
    signed = open_entry(decode_base64(covered.entry))
    proof = Proof.parse(covered.proof.encode())
    found = proof.verify(signed.entry, trust).checkpoint
    if found != checkpoint:
        raise _differs("its proofs have different checkpoints")
    return proof.index, signed


def _tells(body: Body, policy: Policy) -> bool:
    """Require that an entry has a policy; return whether it was in force by it.

    A proposal may have lost against another of the same version.
    """
    told, was_in_force = None, True
    match body:
        case CharterAdopted():
            told = body.policy.digest
        case RoundOpened():
            told = body.manifest.policy_digest
        case ProposalMade(proposal=PolicyChange(policy=proposed)):
            told, was_in_force = proposed.digest, False
    if told != policy.digest:
        raise _differs("its policy in force is not that of its source")
    return was_in_force


def _check_voters(paper: BallotPaper, body: ProposalMade) -> None:
    """Require the members to whom the proposal was put, less the one it is about."""
    names, about = set(paper.voters), body.proposal
    possible = [names]
    if isinstance(about, Removal | RootReplacement):
        possible.append(names | {about.member})
        if about.member in names:
            raise _differs(f"{about.member!r} votes on itself")
    if body.roster not in map(voters_digest, possible):
        raise _differs(
            "its voters are not those of the proposal, which lapsed, or it was changed"
        )


def _check_change(
    paper: BallotPaper, proposal: Proposal, *, was_in_force: bool
) -> bool:
    """Check a next policy against the one in force; return whether that is proven."""
    if not isinstance(proposal, PolicyChange):
        return False
    before, after = paper.policy, proposal.policy
    if after.version != before.version + 1:
        raise _differs(
            f"it says policy {before.version} is in force, the proposal is"
            f" {after.version}"
        )
    count = needed_for_policy(before, after, members=len(paper.voters))
    if was_in_force and paper.needed != count:
        raise _differs(f"{count} yes are needed, not {paper.needed}")
    return was_in_force


def _proven(
    paper: BallotPaper, signed: Signed, trust: TrustPolicy
) -> tuple[int, CosignedCheckpoint]:
    """Return at which index a log has the entry of a paper, and its checkpoint.

    One that proposes another coordinator follows some checkpoint, where it says so.
    """
    data, body = paper.proof.encode(), signed.event.body
    is_vacant = isinstance(body, ProposalMade) and isinstance(
        body.proposal, CoordinatorReplacement
    )
    if is_vacant and not data.startswith(HEADER.encode()):
        opened = trust.open(data)
        return max(paper.index, opened.checkpoint.size), opened
    proof = Proof.parse(data)
    return proof.index, proof.verify(signed.entry, trust)


def cast(
    opened: OpenedPaper,
    vote: Vote,
    *,
    root: SigningKey,
    reasons: str | None,
    now: datetime,
) -> bytes:
    """Sign a vote with a root key; returns the entry.

    ``reasons`` is the digest of a document (``salted_digest``), or None.

    Raises:
        ConfigError: No member who may vote has this root key.
    """
    paper, checkpoint = opened.paper, opened.checkpoint
    body = VoteCast(
        subject=paper.index, entry=opened.signed.digest, vote=vote, reasons=reasons
    )
    seen = Seen(size=checkpoint.size, root=checkpoint.root.hex())
    name = voter(paper.voters, root.verify_key)
    return _sign(body, root, name=name, federation=paper.federation, seen=seen, now=now)


def propose(
    view: MemberView, proposal: Proposal, *, root: SigningKey, now: datetime
) -> bytes:
    """Sign a proposal with a root key; returns the entry.

    Raises:
        ConfigError: No member has this root key.
        RuleError, VerificationError: The log as it stands would refuse it.
    """
    state = view.state
    body = ProposalMade(roster=voters_digest(state.active), proposal=proposal)
    roots = {name: member.root for name, member in state.active.items()}
    entry = _sign(
        body,
        root,
        name=voter(roots, root.verify_key),
        federation=state.federation,
        seen=view.seen,
        now=now,
    )
    apply(view.logged, entry, view.logged.size)
    return entry


def voter(roots: Mapping[str, str], key: VerifyKey) -> str:
    """Return the member that has a root key.

    Raises:
        ConfigError: None of those who may vote has it.
    """
    for name, text in roots.items():
        if VerifyKey.parse(text) == key:
            return name
    raise ConfigError(
        f"{key.keyid} is the root key of none of {', '.join(sorted(roots))}, who may"
        " vote here",
        code="key-not-of-voter",
    )


def salted_digest(document: bytes) -> tuple[str, bytes]:
    """Return a digest of a document under a fresh salt, and the salt.

    Who gets the document and the salt can compare; the digest alone tells nothing.
    """
    salt = secrets.token_bytes(_SALT)
    return digest(salt + document), salt


def _sign(
    body: Body,
    root: SigningKey,
    *,
    name: str,
    federation: str,
    seen: Seen,
    now: datetime,
) -> bytes:
    author = Author(federation=federation, actor=name, role="root")
    return sign_entry(author.event(body, now=now, seen=seen), root)
