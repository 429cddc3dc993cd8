"""The ballot that travels to a machine without a network, and the vote on it."""

import base64
from datetime import UTC, datetime

import pytest

from tapestry.encoding import digest
from tapestry.errors import (
    ConfigError,
    ProtocolError,
    QuorumError,
    RuleError,
    TapestryError,
)
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.ballot_paper import (
    BallotPaper,
    cast,
    index_of,
    make_paper,
    open_paper,
    propose,
    salted_digest,
)
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import PauseProposal, Removal, VoteCast
from tapestry_governance.member_view import MemberView, view_of
from tests.support.log_world import World, fake_digest
from tests.support.proposals import new_coordinator
from tests.support.refusals import refused

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)


def view(world: World) -> MemberView:
    return view_of(world.entries, note=world.note(), founding=world.trust)


@pytest.fixture
def world() -> World:
    world = World().found()
    world.run_round(1)
    world.add(world.release(1))
    return world


@pytest.fixture
def paper(world: World) -> BallotPaper:
    index = world.propose(Removal(kind="remove", member="id"))
    world.vote(index, "de")
    return make_paper(view(world), index)


def test_a_vote_by_the_file_and_the_root_key_alone_counts(
    world: World, paper: BallotPaper
) -> None:
    again = BallotPaper.decode(paper.encode(), limit=1 << 20)
    opened = open_paper(again)
    assert opened.proposal == Removal(kind="remove", member="id")
    root = world.keys["fr", "root"]
    entry = cast(opened, "yes", root=root, reasons=fake_digest("why"), now=NOW)
    event = open_entry(entry).event
    assert isinstance(event.body, VoteCast)
    assert (event.actor, event.role) == ("fr", "root")
    assert event.body.reasons == fake_digest("why")
    assert event.seen == world.seen()
    world.append(entry)
    ballot = world.folded.ballots[paper.index]
    assert dict(ballot.votes) == {"de": "yes", "fr": "yes"}


def test_it_says_who_may_vote_who_did_and_how_many_it_takes(
    paper: BallotPaper,
) -> None:
    assert set(paper.voters) == {"de", "es", "fr"}  # not whom it is about
    assert paper.votes == {"de": "yes"}
    assert paper.needed == 3


def test_a_release_is_named_by_its_name(world: World) -> None:
    here = view(world)
    index = world.folded.release_named("base-1").index
    assert index_of(here, "base-1") == index_of(here, str(index)) == index
    opened = open_paper(make_paper(here, index))
    assert opened.proposal is None
    assert opened.release == world.folded.releases["base-1"]
    for wrong in ("base-9", "-1", "1e3", "9" * 16):
        with refused(ConfigError, "usage"):
            index_of(here, wrong)
    with refused(ConfigError, "ballot-missing"):
        make_paper(here, 3)


def test_a_key_of_nobody_who_may_vote_signs_nothing(
    world: World, paper: BallotPaper
) -> None:
    opened = open_paper(paper)
    for key in (world.keys["id", "root"], world.keys["fr", "node"]):
        with refused(ConfigError, "key-not-of-voter"):
            cast(opened, "yes", root=key, reasons=None, now=NOW)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("index", 5),
        ("federation", "another"),
        ("entry", base64.b64encode(b"{}").decode()),
        ("proof", "c2sp.org/tlog-proof@v1\n"),
        ("trust", "quorum none\n"),
    ],
)
def test_a_ballot_that_was_changed_is_refused(
    paper: BallotPaper, field: str, value: object
) -> None:
    with pytest.raises(TapestryError):
        open_paper(paper.model_copy(update={field: value}))


def test_another_entry_needs_its_own_proof(world: World, paper: BallotPaper) -> None:
    other = World().found()
    index = other.propose(PauseProposal(kind="pause"))
    forged = make_paper(
        view_of(other.entries, note=other.note(), founding=other.trust), index
    )
    with pytest.raises(TapestryError):  # cosigned by the same keys, for the other log
        open_paper(paper.model_copy(update={"entry": forged.entry}))
    declared = make_paper(view(world), paper.index).model_copy(
        update={
            "index": 6,
            "entry": base64.b64encode(world.entries[6]).decode(),
            "proof": view(world).proof(6).decode(),
        }
    )
    with refused(RuleError, "vote-without-subject"):
        open_paper(declared)


def test_the_policy_that_the_steward_holds_decides(
    world: World, paper: BallotPaper
) -> None:
    open_paper(paper, trust=world.trust)
    keys = [world.keys[name, "witness"].verify_key for name in ("id",)]
    other = TrustPolicy.of_members(world.log_key.verify_key, keys)
    with refused(QuorumError, "quorum-not-reached"):
        open_paper(paper, trust=other)


def test_a_proposal_is_checked_against_the_log_before_it_is_signed(
    world: World,
) -> None:
    here, root = view(world), world.keys["fr", "root"]
    entry = propose(here, PauseProposal(kind="pause"), root=root, now=NOW)
    world.append(entry)
    with refused(RuleError, "pause-unchanged"):
        propose(here, PauseProposal(kind="resume"), root=root, now=NOW)
    with refused(ConfigError, "key-not-of-voter"):
        key = world.keys["fr", "community"]
        propose(here, PauseProposal(kind="pause"), root=key, now=NOW)


def test_reasons_are_told_by_a_digest_that_hides_them() -> None:
    (first, salt), (second, _) = salted_digest(b"because"), salted_digest(b"because")
    assert first != second
    assert first == digest(salt + b"because")
    assert len(salt) == 32


def test_a_proposal_of_another_coordinator_needs_no_proof_and_no_other_goes_without(
    world: World,
) -> None:
    note, size = world.note(), len(world.entries)
    index = world.propose(new_coordinator(world))
    paused = world.propose(PauseProposal(kind="pause"))
    beyond = view_of(world.entries, note=note, founding=world.trust)
    paper = make_paper(beyond, index)
    opened = open_paper(paper, trust=world.trust)
    assert not opened.is_proven
    entry = cast(opened, "yes", root=world.keys["es", "root"], reasons=None, now=NOW)
    assert open_entry(entry).event.seen == world.seen(size)
    world.append(entry)
    assert dict(world.folded.ballots[index].votes) == {"es": "yes"}
    with refused(RuleError, "ballot-inconsistent"):  # the checkpoint reaches it
        open_paper(paper.model_copy(update={"index": size - 1}))
    few = paper.model_copy(update={"proof": world.note(witnesses=["fr"]).decode()})
    with refused(QuorumError, "quorum-not-reached"):
        open_paper(few)
    with refused(ProtocolError, "proof-malformed"):
        open_paper(make_paper(beyond, paused))
    proven = view_of(world.entries, note=world.note(), founding=world.trust)
    assert open_paper(make_paper(proven, index)).is_proven
