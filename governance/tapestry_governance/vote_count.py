"""The standing of releases and proposals with the members, and the votes on each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice

from tapestry_governance.events.member_events import (
    Admission,
    CoordinatorReplacement,
    Removal,
    RootReplacement,
    Withdrawal,
)
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_governance.rules.ballots import Ballot, Vote
from tapestry_governance.rules.federation_state import FederationState, Standing
from tapestry_governance.rules.settlement import settle
from tapestry_governance.rules.thresholds import eligible, votes_for, votes_needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """A release or an adapter that was withdrawn, and what the policy says of it.

    Members withdraw by vote, and the owner of an adapter by its own word.
    """

    name: str
    reason: str
    decided: int  # index of the deciding vote, or of the owner's word
    refused: bool  # not to be used; else programs warn
    words: str

    def __str__(self) -> str:
        return f"{self.name} is withdrawn by entry {self.decided}: {self.words}"

    @classmethod
    def of(cls, state: FederationState, name: str, manifest: str) -> "Withdrawn | None":
        """Return what was withdrawn under a name and manifest, or None.

        Of several withdrawals it is the gravest by the policy in force.
        """
        proposal = state.withdrawal_of(name, manifest)
        if proposal is None:
            return None
        decided = state.withdrawn_by_owner.get((name, manifest, proposal.reason))
        if decided is None:
            (decided,) = {
                ballot.decided
                for ballot in state.ballots.values()
                if ballot.proposal == proposal and ballot.outcome == "in_force"
            } - {None}
        return cls(
            name=name,
            reason=proposal.reason,
            decided=decided,
            refused=state.policy.refuses(proposal.reason),
            words=f"{proposal.reason}, {state.policy.said_of(proposal.reason)}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteCount:
    """The standing of a release, and the votes on it, as of a cosigned checkpoint."""

    release: str
    standing: Standing
    yes: int
    needed: int
    votes: Mapping[str, Vote]
    approved: int | None  # index of the deciding vote, if ever
    withdrawn: Withdrawn | None

    def __str__(self) -> str:
        said = ", ".join(f"{name} {vote}" for name, vote in self.votes.items())
        how: str = self.standing
        if self.withdrawn is not None:
            how += f" by entry {self.withdrawn.decided}: {self.withdrawn.words}"
        elif self.approved is not None:
            how += f" by entry {self.approved}"
        return f"{how}; {self.yes} yes, {self.needed} are needed ({said or 'no vote'})"

    @property
    def may_be_used(self) -> bool:
        """True of what was approved, unless it was withdrawn and the policy refuses it.

        A candidate that was withdrawn stays one that was never approved.
        """
        is_refused = self.withdrawn is not None and self.withdrawn.refused
        return self.approved is not None and not is_refused

    @property
    def code(self) -> str:
        """The code of the standing, for what may not be used."""
        return f"release-{self.standing}"

    def to_json(self) -> dict[str, object]:
        """Return the object that programs read."""
        withdrawn = self.withdrawn
        return {
            "standing": self.standing,
            "may_be_used": self.may_be_used,
            "yes": self.yes,
            "needed": self.needed,
            "votes": dict(self.votes),
            "approved": self.approved,
            "withdrawn": None if withdrawn is None else withdrawn.decided,
            "reason": None if withdrawn is None else withdrawn.reason,
        }


def count_votes(logged: FederationState, release: str, *, size: int) -> VoteCount:
    """Count the votes on a release, as a checkpoint of ``size`` entries shows them."""
    state = settle(logged, seen=size)
    ballot: Ballot = state.ballots[state.release_named(release).index]
    return VoteCount(
        release=release,
        standing=state.standing_of(release),
        yes=votes_for(state, ballot),
        needed=votes_needed(state, ballot),
        votes=dict(ballot.votes),
        approved=state.approved.get(release),
        withdrawn=Withdrawn.of(state, release, state.releases[release].manifest_digest),
    )


def newest_counts(
    logged: FederationState, *, size: int, most: int = 3
) -> list[VoteCount]:
    """Count the votes on the newest releases, the newest first."""
    names = (record.name for record in logged.released.newest_first())
    return [count_votes(logged, name, size=size) for name in islice(names, most)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BallotCount:
    """The votes on a proposal or a release, in words and numbers."""

    index: int
    what: str
    standing: str
    yes: int
    needed: int
    votes: Mapping[str, Vote]
    missing: tuple[str, ...]  # members that may vote and did not
    decided: int | None  # index of the deciding vote


def count_ballots(state: FederationState) -> list[BallotCount]:
    """Count the votes on all that is and was voted on, in the order of the log."""
    return [
        BallotCount(
            index=ballot.index,
            what=ballot.release or _proposal(ballot),
            standing=(
                ballot.outcome.replace("_", " ")
                if ballot.release is None
                else state.standing_of(ballot.release)
            ),
            yes=votes_for(state, ballot),
            needed=votes_needed(state, ballot),
            votes=dict(ballot.votes),
            missing=tuple(n for n in eligible(state, ballot) if n not in ballot.votes),
            decided=ballot.decided,
        )
        for ballot in state.ballots.values()
    ]


def _proposal(ballot: Ballot) -> str:
    """Name a proposal: its kind, whom or what it is about, its author."""
    match ballot.proposal:
        case Removal(member=about) | RootReplacement(member=about):
            return f"{ballot.kind} {about} by {ballot.by}"
        case Withdrawal(name=about) | CoordinatorReplacement(name=about):
            return f"{ballot.kind} {about} by {ballot.by}"
        case Admission(request=request):
            return f"{ballot.kind} {request.name} by {ballot.by}"
    return f"{ballot.kind} by {ballot.by}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStanding:
    """The standing of an adapter: its withdrawal, and the votes on its base."""

    withdrawn: Withdrawn | None
    base: VoteCount

    def __str__(self) -> str:
        base = f"{self.base.release}: {self.base}"
        return base if self.withdrawn is None else f"{self.withdrawn}; {base}"

    @property
    def may_be_used(self) -> bool:
        """True where the policy refuses neither it nor its approved base."""
        is_refused = self.withdrawn is not None and self.withdrawn.refused
        return self.base.may_be_used and not is_refused

    @property
    def code(self) -> str:
        """The code of the standing, for what may not be used."""
        return "adapter-withdrawn" if self.withdrawn is not None else self.base.code

    def to_json(self) -> dict[str, object]:
        """Return the object that programs read."""
        said = None if self.withdrawn is None else str(self.withdrawn)
        return {
            "may_be_used": self.may_be_used,
            "withdrawn": said,
            "base": self.base.to_json(),
        }


def adapter_standing(
    logged: FederationState, adapter: AdapterPublished, *, size: int
) -> AdapterStanding:
    """Return how members stand to an adapter, as a checkpoint of ``size`` shows it."""
    state = settle(logged, seen=size)
    return AdapterStanding(
        withdrawn=Withdrawn.of(state, adapter.name, adapter.manifest_digest),
        base=count_votes(state, adapter.base, size=size),
    )


def withdrawn_files(
    state: FederationState, *, model: str, manifests: Collection[str]
) -> list[Withdrawn]:
    """List what members withdrew of a model and of adapters.

    Guarantees:
        A model is known by its identity and an adapter by its manifest, never by the
        name of a folder: a copy under another name is withdrawn as well.
    """
    models = {n for n in state.releases if state.releases[n].model_digest == model}
    found = (
        Withdrawn.of(state, name, manifest)
        for name, manifest in state.withdrawn
        if name in models or manifest in manifests
    )
    return [each for each in found if each is not None]


def unknown_files(
    state: FederationState, *, model: str, manifests: Collection[str]
) -> list[str]:
    """List what the log does not name, so that no vote on it is known.

    Another spelling of a withdrawn adapter's card, for one, is another adapter.
    """
    bases = state.policy.bases
    given = {each.model for each in bases} if bases != "any" else {model}
    models = given | {each.model_digest for each in state.releases.values()}
    named = {each.manifest_digest for each in state.adapters.values()}
    said = [] if model in models else [f"the log does not name the base {model}"]
    return said + [
        f"the log does not name an adapter with manifest {each} now"
        for each in manifests
        if each not in named
    ]
