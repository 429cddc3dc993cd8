import pytest

from tapestry_governance.events.member_events import Removal
from tapestry_governance.rules.ballots import Ballot, voters_digest
from tests.support.log_world import World, fake_digest
from tests.support.proposals import KINDS, proposal


def test_voters_are_told_by_their_names_in_any_order() -> None:
    assert voters_digest(["fr", "de"]) == voters_digest(("de", "fr"))
    assert len({voters_digest(n) for n in ([], ["de"], ["de", "fr"], ["defr"])}) == 4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "withdraw"])
def test_a_removal_and_a_lost_root_concern_their_member_alone(kind: str) -> None:
    world = World().adopt()
    ballot = Ballot(
        index=9,
        entry=fake_digest("entry"),
        kind=kind,
        proposal=proposal(world, kind, about="es"),
        by="fr",
        voters=fake_digest("voters"),
    )
    assert ballot.concerned == ("es" if kind in {"remove", "root"} else None)


def test_a_ballot_begins_open_and_without_votes() -> None:
    removal = Removal(kind="remove", member="es")
    ballot = Ballot(
        index=9, entry="", kind="remove", proposal=removal, by="fr", voters=""
    )
    assert (ballot.outcome, ballot.decided, len(ballot.votes)) == ("open", None, 0)
