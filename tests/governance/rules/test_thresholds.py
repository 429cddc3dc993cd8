"""Never a minority decides, and no member has a veto."""

from math import ceil

import pytest

from tapestry_governance.events.federation_events import USUAL_VOTING, Policy, Voting
from tapestry_governance.rules.thresholds import needed, needed_for_policy
from tests.support.log_world import World

SHARES = ("1/99", "1/3", "1/2", "2/3", "3/4", "9/10", "98/99", "1/1")
ALL = range(2, 41)
CHANGES: list[dict[str, object]] = [
    {"voting": {**USUAL_VOTING.model_dump(), "resume": "1/3"}},
    {"voting": {**USUAL_VOTING.model_dump(), "pause": 4}},
    {"withdrawn_warns": ("superseded",)},
    {
        "witnesses": (
            {
                "name": "archive",
                "key": str(World().keys["fr", "witness"].verify_key),
                "url": "https://archive.example/",
            },
        )
    },
]


def policy(**changes: object) -> Policy:
    return World().policy(**changes)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("concerned", [0, 1])
def test_no_minority_decides_and_from_five_members_none_blocks(
    share: str, concerned: int
) -> None:
    for members in ALL:
        voters = members - concerned
        votes = needed(share, voters=voters, members=members)
        assert 2 * votes > members
        if members >= 3 + 2 * concerned:
            assert votes <= voters - 1
        elif voters >= 2:
            assert votes <= voters


@pytest.mark.parametrize("share", ["2/3", "3/4"])
def test_a_share_is_of_those_who_may_vote_rounded_up(share: str) -> None:
    part, whole = map(int, share.split("/"))
    for members in range(8, 41):
        for voters in (members, members - 1):
            votes = needed(share, voters=voters, members=members)
            assert votes == ceil(part * voters / whole)
            assert part * voters <= whole * votes < part * voters + whole


def test_more_members_never_need_fewer_votes() -> None:
    for share in SHARES:
        votes = [needed(share, voters=n, members=n) for n in ALL]
        assert votes == sorted(votes)


@pytest.mark.parametrize(
    ("members", "voters", "want"),
    [(2, 2, 2), (2, 1, 2), (3, 3, 2), (3, 2, 2), (4, 4, 3), (4, 3, 3), (5, 4, 3)],
)
def test_small_federations_by_hand(members: int, voters: int, want: int) -> None:
    """At two, one of two decides nothing; a removal of one of four takes the others."""
    assert needed("3/4", voters=voters, members=members) == want


def test_a_policy_takes_its_share_unless_it_changes_who_decides() -> None:
    assert needed_for_policy(policy(), policy(max_attempt=9), members=12) == 7


@pytest.mark.parametrize("changes", CHANGES)
def test_who_decides_is_changed_by_the_largest_share_of_both(
    changes: dict[str, object],
) -> None:
    for one, other in ((policy(), policy(**changes)), (policy(**changes), policy())):
        assert needed_for_policy(one, other, members=12) == 9


def test_no_majority_lowers_or_raises_a_share_first() -> None:
    """A larger share that the next policy names counts for its adoption as well."""
    usual = USUAL_VOTING.model_dump()
    strict = Voting.model_validate({**usual, "release": "9/10"}).model_dump()
    lax = Voting.model_validate({**usual, **dict.fromkeys(("admit", "root"), "1/2")})
    assert needed_for_policy(policy(), policy(voting=strict), members=20) == 18
    assert needed_for_policy(policy(voting=strict), policy(), members=20) == 18
    assert needed_for_policy(policy(), policy(voting=lax), members=20) == 15


def test_a_quorum_of_outsiders_is_changed_by_the_largest_share() -> None:
    named = policy(**CHANGES[3])
    wanted = policy(**CHANGES[3], outside_quorum=1)
    assert needed_for_policy(named, wanted, members=12) == 9
    assert needed_for_policy(wanted, named, members=12) == 9
