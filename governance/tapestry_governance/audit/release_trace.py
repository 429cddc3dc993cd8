"""The way to a release: its rounds, their rules and software, accounts, and votes."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tapestry_governance.audit.verify import Audit
from tapestry_governance.events.envelope import DecodedEvents
from tapestry_governance.events.member_events import VoteCast
from tapestry_governance.events.round_events import RoundClosed, RoundOpened
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import ClosedRound
from tapestry_governance.vote_count import VoteCount, count_votes


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRound:
    """A round that led to a release; numbers are indexes of the log."""

    run: str
    number: int
    opened: int
    closed: int
    outcome: str
    policy: int  # its version
    software: tuple[str, ...]
    noise: str
    included: tuple[str, ...]
    dropped: tuple[str, ...]
    accounts: dict[str, int]  # by member
    disputes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CastVote:
    """A vote on a release, as the log has it."""

    index: int
    member: str
    vote: str
    reasons: str | None  # salted digest of a document


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTrace:
    """All of the log that led to a release."""

    release: str
    index: int
    previous: str | None
    model: str
    manifest: str
    rounds: tuple[TracedRound, ...]  # of all runs that it goes back to, in log order
    votes: tuple[CastVote, ...]
    count: VoteCount

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        found = asdict(self)
        del found["count"]
        return self.count.to_json() | found

    def lines(self) -> Iterator[str]:
        """Yield it as lines of text."""
        yield f"{self.release}   entry {self.index}, after {self.previous or 'none'}"
        yield f"model    {self.model}"
        yield f"files    {self.manifest}"
        for each in self.rounds:
            yield (
                f"round    {each.run} {each.number}, entries {each.opened} to"
                f" {each.closed}: {each.outcome}, noise {each.noise},"
                f" policy {each.policy}"
            )
            yield f"           software {', '.join(each.software)}"
            accounts = (f"{name} entry {at}" for name, at in each.accounts.items())
            yield f"           included {', '.join(each.included)}"
            if each.dropped:
                yield f"           dropped  {', '.join(each.dropped)}"
            yield f"           accounts {', '.join(accounts) or 'none'}"
            yield from (f"           DISPUTED {said}" for said in each.disputes)
        for vote in self.votes:
            why = f", reasons {vote.reasons}" if vote.reasons else ""
            yield f"vote     entry {vote.index}: {vote.member} {vote.vote}{why}"
        yield f"members  {self.count}"


def trace(audit: Audit, release: str) -> ReleaseTrace:
    """Walk from a release of a verified bundle to all that it rests on.

    Raises:
        ValueError: The log has no release of this name.
    """
    state, events = audit.state, DecodedEvents(audit.entries)
    record, entry = state.release_named(release), state.releases.get(release)
    if entry is None:  # unreachable: both are of one event
        raise ValueError(f"the log has no release {release}")
    closed = [
        each
        for each in state.closed
        if each.run_id in record.ancestry and each.index < record.index
    ]
    votes = (
        CastVote(
            index=index,
            member=event.actor,
            vote=event.body.vote,
            reasons=event.body.reasons,
        )
        for index, event in enumerate(events)
        if isinstance(event.body, VoteCast) and event.body.subject == record.index
    )
    return ReleaseTrace(
        release=release,
        index=record.index,
        previous=entry.previous,
        model=entry.model_digest,
        manifest=entry.manifest_digest,
        rounds=tuple(_round(state, events, each) for each in closed),
        votes=tuple(votes),
        count=count_votes(state, release, size=state.size),
    )


def _round(
    state: FederationState, events: DecodedEvents, closed: ClosedRound
) -> TracedRound:
    opened, ended = events[closed.opened].body, events[closed.index].body
    if not isinstance(opened, RoundOpened) or not isinstance(ended, RoundClosed):
        raise TypeError("a round's entries are of other types")  # the rules exclude it
    accounts = {
        member: spent.index
        for member in state.spending
        for spent in state.spending_of(member)
        if (spent.run_id, spent.round_number, spent.attempt) == closed.key
    }
    return TracedRound(
        run=closed.run_id,
        number=closed.round_number,
        opened=closed.opened,
        closed=closed.index,
        outcome=ended.outcome,
        policy=state.rounds[closed.key].policy.version,
        software=opened.manifest.software,
        noise=opened.manifest.privacy.noise,
        included=ended.included,
        dropped=tuple(each.name for each in ended.dropped),
        accounts=accounts,
        disputes=tuple(
            f"by {member}: the {subject}"
            for member, subject in sorted(state.disputes.get(closed.key, ()))
        ),
    )
