"""The standing of releases and proposals with the members, and the votes on each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

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
from tapestry_governance.rules.vote_rules import eligible, votes_for, votes_needed


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteCount:
    """The votes on a release as of a cosigned checkpoint."""

    standing: Standing
    yes: int
    needed: int
    votes: Mapping[str, Vote]
    reason: str | None = None  # of a withdrawal

    def __str__(self) -> str:
        said = ", ".join(f"{name} {vote}" for name, vote in self.votes.items())
        why = f": {self.reason}" if self.reason else ""
        return (
            f"{self.standing}{why}; {self.yes} yes, {self.needed} are needed"
            f" ({said or 'no vote'})"
        )


def count_votes(logged: FederationState, release: str, *, size: int) -> VoteCount:
    """Count the votes on a release, as a checkpoint of ``size`` entries shows them."""
    state = settle(logged, seen=size)
    ballot: Ballot = state.ballots[state.release_named(release).index]
    withdrawal = state.withdrawn.get((release, state.releases[release].manifest_digest))
    return VoteCount(
        standing=state.standing_of(release),
        yes=votes_for(state, ballot),
        needed=votes_needed(state, ballot),
        votes=dict(ballot.votes),
        reason=withdrawal.reason if withdrawal else None,
    )


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


def withdrawals(
    logged: FederationState, adapter: AdapterPublished, *, size: int
) -> list[str]:
    """List what members withdrew of an adapter and its base, each with the reason."""
    state = settle(logged, seen=size)
    base = state.releases[adapter.base]
    digests = [
        (adapter.name, adapter.manifest_digest),
        (adapter.base, base.manifest_digest),
    ]
    return [
        f"{each[0]} is withdrawn: {state.withdrawn[each].reason}"
        for each in digests
        if each in state.withdrawn
    ]


def withdrawn_files(
    state: FederationState, *, model: str, manifests: Collection[str]
) -> list[str]:
    """List what members withdrew of a model and of adapters, each with the reason.

    Guarantees:
        A model is known by its identity and an adapter by its manifest, never by the
        name of a folder: a copy under another name is withdrawn as well.
    """
    models = {n for n in state.releases if state.releases[n].model_digest == model}
    return [
        f"{name} is withdrawn: {state.withdrawn[name, manifest].reason}"
        for name, manifest in state.withdrawn
        if name in models or manifest in manifests
    ]


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
