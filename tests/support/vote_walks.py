"""Walks of a log under whatever its parties happen to sign, valid or not."""

from collections import Counter

from tapestry.errors import RuleError, VerificationError
from tapestry_governance.events.event_body import Body, Role
from tapestry_governance.events.member_events import (
    MemberLeft,
    PauseProposal,
    Proposal,
    ProposalMade,
    Removal,
    VoteCast,
)
from tapestry_governance.events.round_events import RoundAborted, RoundOpened
from tapestry_governance.rules.ballots import Vote, voters_digest
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.settlement import settle
from tests.fuzzing.draws import Draw
from tests.support.log_world import NAMES, World
from tests.support.proposals import new_coordinator, new_key, new_policy, new_root

MEMBERS = (*NAMES, "it", "pl", "se")
_PURPOSES = ("root", "node", "witness", "receipts", "transport")
_Choice = tuple[Body, str, Role]


def aborted(state: FederationState) -> RoundAborted:
    """End the round that is open, for too few nodes."""
    assert state.open_round is not None
    run, number, attempt = state.open_round.key
    return RoundAborted(
        run_id=run,
        round_number=number,
        attempt=attempt,
        stage=None,
        reason="too_few",
        survivors=(),
    )


class Walk:
    """A log that grows by random entries, and a tally of what was refused and why."""

    def __init__(self, draw: Draw) -> None:
        """Found a federation of seven."""
        self.draw = draw
        self.world = World(names=MEMBERS).adopt()
        self.world.invent("zz")
        known = [*self.world.keys.values(), self.world.coordinator_key]
        known += [new_key("found-again"), new_key("rivers")]
        self.signing = {key.verify_key.keyid: key for key in known}
        self.codes: Counter[str] = Counter()
        self.subject = 0

    def step(self) -> None:
        """Sign something, with the key in force and a view that may be old."""
        world, draw = self.world, self.draw
        size = len(world.entries) - (draw.below(4) if draw.chance(0.3) else 0)
        seen = None if draw.chance(0.1) else world.seen(size)
        before = world.folded
        state = settle(before, seen=max(size if seen else 0, before.shown))
        body, actor, role = self._choose(state)
        key = state.key_of(actor, role) or world.key(actor, role).verify_key
        signers = [self.signing[key.keyid]]
        try:
            world.append(world.entry(body, actor, role, signers=signers, seen=seen))
        except (RuleError, VerificationError) as error:
            self.codes[error.code] += 1
            return
        self.codes["taken"] += 1
        if isinstance(body, VoteCast):
            self._check_decision(state, body.subject)
        self._check_stolen(before, body, actor)
        check_promises(world.folded)

    def _choose(self, state: FederationState) -> _Choice:
        kind = self.draw.below(100)
        actor = self.draw.one((*MEMBERS, "zz"))
        if kind < 1 and self.draw.chance(0.3):
            return MemberLeft(), actor, "root"
        if kind < 10:
            return self._rotation(actor)
        if kind < 20:
            return self._of_round(state)
        if kind < 35 or not state.ballots:
            voters = voters_digest(state.active)
            self.subject = state.size
            return ProposalMade(roster=voters, proposal=self._proposal()), actor, "root"
        other = self.draw.one(list(state.ballots))
        subject = self.draw.one([self.subject, self.subject, self.subject, other])
        subject = subject if subject in state.ballots else max(state.ballots)
        vote: Vote = self.draw.one(("yes", "yes", "yes", "yes", "no", "abstain"))
        entry = state.ballots[subject].entry
        cast = VoteCast(subject=subject, entry=entry, vote=vote, reasons=None)
        return cast, actor, "root"

    def _proposal(self) -> Proposal:
        made: list[Proposal] = [
            PauseProposal(kind="pause"),
            PauseProposal(kind="resume"),
            Removal(kind="remove", member=self.draw.one(MEMBERS)),
            Removal(kind="remove", member="zz"),
            new_root(self.draw.one(MEMBERS)),
            new_policy(self.world, max_attempt=7),
            new_coordinator(self.world),
            self.world.invent("zz"),
        ]
        return self.draw.one(made)

    def _rotation(self, actor: str) -> _Choice:
        purpose, seed = self.draw.one(_PURPOSES), str(self.draw.below(1000))
        reason = self.draw.one(("routine", "compromised"))
        body = self.world.rotation(actor, purpose, seed=seed, reason=reason)
        if purpose != "transport":
            new = self.world.keys[actor, f"{purpose}'"]
            self.signing[new.verify_key.keyid] = new
        return body, actor, "root"

    def _of_round(self, state: FederationState) -> _Choice:
        lead = state.lead.coordinator.name
        if state.open_round is None:
            attempt = state.last[2] + 1 if state.last else 1
            manifest = self.world.manifest(attempt=min(attempt, 7))
            return RoundOpened(manifest=manifest), lead, "coordinator"
        return aborted(state), lead, "coordinator"

    def _check_stolen(self, before: FederationState, body: Body, actor: str) -> None:
        """Demand that no vote outlives the stolen root key that it was signed with."""
        for (name, purpose), keys in self.world.folded.former_keys.items():
            is_new = keys[-1] not in before.former_keys.get((name, purpose), ())
            if purpose != "root" or not is_new or not keys[-1].compromised:
                continue
            self.codes["root stolen"] += 1
            after = (body.subject,) if isinstance(body, VoteCast) else ()
            own = after if actor == name else ()
            for index, ballot in self.world.folded.ballots.items():
                is_open = ballot.outcome in {"open", "decided"}
                assert not is_open or name not in ballot.votes or index in own

    def _check_decision(self, before: FederationState, subject: int) -> None:
        """Count the votes again where one decided."""
        ballot = self.world.folded.ballots[subject]
        if ballot.decided != self.world.folded.size - 1:
            return
        voters = {*before.active} - {ballot.concerned}
        yes = [name for name in voters if ballot.votes.get(name) == "yes"]
        is_pause = ballot.kind == "pause" and not before.pause_lifted
        assert len(yes) >= 2 if is_pause else 2 * len(yes) > len(before.active)
        self.codes[f"decided {ballot.kind}"] += 1


def check_promises(state: FederationState) -> None:
    """Demand what holds of every state: a quorum, one owner a key, ballots in order."""
    assert len(state.members) >= 2
    keys = [key for member in state.members.values() for key in member.verify_keys]
    keys += state.lead.verify_keys
    assert (
        len({key.public for key in keys}) == len({k.keyid for k in keys}) == len(keys)
    )
    assert all(state.owned(key) for key in keys)
    former = {f.key.public for each in state.former_keys.values() for f in each}
    assert not {key.public for key in keys} & former
    since = {each.subject: each.since for each in state.waiting}
    for index, ballot in state.ballots.items():
        is_open = ballot.outcome in {"open", "decided"}
        assert (index in state.open_proposals) == is_open
        if is_open:  # or the votes would count again once the name is admitted again
            assert ballot.votes.keys() == ballot.casts.keys() <= state.active.keys()
        is_decided = ballot.outcome == "decided"
        assert since.get(index) == (ballot.decided if is_decided else None)
    assert list(since.values()) == sorted(since.values())
