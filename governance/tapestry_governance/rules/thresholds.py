"""The number of yes votes that a decision takes.

Of n members, m may vote: all but the one that a proposal is about. The policy names a
share for each kind of decision; needed are::

    max(floor(n / 2) + 1, min(ceil(share * m), m - 1))

Guarantees:
    Never a minority decides. From three members on no single one can block a decision
    in which all may vote; of removals and lost root keys that holds from five on, and
    below they take all the others.
"""

from fractions import Fraction
from math import ceil

from tapestry_governance.events.federation_events import Policy, Share
from tapestry_governance.events.member_events import PauseProposal, PolicyChange
from tapestry_governance.rules.ballots import Ballot
from tapestry_governance.rules.federation_state import FederationState

_GRAVE = ("voting", "witnesses", "outside_quorum", "withdrawn_warns")


def needed(share: Share, *, voters: int, members: int) -> int:
    """Return how many yes votes a share of the voters is.

    Args:
        share: Of the policy, such as ``2/3``.
        voters: The members that may vote.
        members: All members.
    """
    most = min(ceil(Fraction(share) * voters), voters - 1)
    return max(members // 2 + 1, most)


def needed_for_policy(before: Policy, after: Policy, *, members: int) -> int:
    """Return how many yes votes the next policy takes.

    Guarantees:
        One that changes who decides, who witnesses, or what a withdrawal does, takes
        the largest share of both policies, so that no majority can lower the share of
        a decision first, nor undo one.
    """
    shares = [before.voting.policy]
    if any(getattr(before, term) != getattr(after, term) for term in _GRAVE):
        shares += [*_shares(before), *_shares(after)]
    return max(needed(each, voters=members, members=members) for each in shares)


def eligible(state: FederationState, ballot: Ballot) -> list[str]:
    """List the members who may vote."""
    return [name for name in state.active if name != ballot.concerned]


def votes_needed(state: FederationState, ballot: Ballot) -> int:
    """Return how many yes votes it takes, by the members and the policy now."""
    members, voting = len(state.active), state.policy.voting
    match ballot.proposal:
        case PolicyChange(policy=policy):
            return needed_for_policy(state.policy, policy, members=members)
        case PauseProposal(kind="pause"):
            majority = members // 2 + 1
            few = min(voting.pause, majority)
            return majority if state.pause_lifted else max(2, few)
    share = getattr(voting, ballot.kind)
    return needed(share, voters=len(eligible(state, ballot)), members=members)


def votes_for(state: FederationState, ballot: Ballot) -> int:
    """Count the yes votes of those who may vote."""
    return sum(ballot.votes.get(name) == "yes" for name in eligible(state, ballot))


def _shares(policy: Policy) -> list[Share]:
    values = policy.voting.model_dump().values()
    return [value for value in values if isinstance(value, str)]
