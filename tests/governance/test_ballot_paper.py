"""The ballot that travels to a machine without a network, and the vote on it."""

import base64
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tapestry.encoding import canonical_json, digest
from tapestry.errors import (
    ConfigError,
    ProtocolError,
    QuorumError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.ballot_paper import (
    BallotPaper,
    OpenedPaper,
    cast,
    index_of,
    make_paper,
    open_paper,
    propose,
    salted_digest,
)
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import (
    PauseProposal,
    PolicyChange,
    Removal,
    VoteCast,
)
from tapestry_governance.member_view import MemberView, view_of
from tapestry_governance.plain_words import paper_lines, policy_rows
from tests.support.log_world import World, fake_digest
from tests.support.proposals import new_coordinator, new_policy, withdrawal
from tests.support.refusals import refused

Changes = dict[str, Any]
Forgeries = dict[str, list[tuple[Changes, str | None]]]
DIFFERS = "ballot-inconsistent"
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


def contested(*, rounds: int) -> tuple[World, int, int]:
    """Return a log with policy 2, another that lost against it, and the next one.

    With two rounds, the second was opened under policy 2.
    """
    world = World().found()
    world.run_round(1)
    lost = world.propose(new_policy(world, epsilon_cap="999"), by="de")
    world.change_policy(max_attempt=5)
    index = world.propose(new_policy(world, epsilon_cap="16", max_attempt=5))
    if rounds == 2:
        world.run_round(2)
    return world, lost, index


def covered(here: MemberView, index: int) -> dict[str, str]:
    entry = base64.b64encode(here.entries[index]).decode()
    return {"entry": entry, "proof": here.proof(index).decode()}


def forgeries(world: World, lost: int, index: int) -> Forgeries:
    """Change each field of the ballot on the next policy, in a few ways.

    Each with the code of the refusal, or None: the ballot opens. A new field has no
    line here, and so fails the test.
    """
    here = view(world)
    paper = make_paper(here, index).model_dump(mode="json")
    is_proven = len(here.state.rounds) > 1
    worse = here.state.ballots[lost].proposal
    assert isinstance(worse, PolicyChange)
    losing = {"policy": worse.policy.model_dump(mode="json")}
    losing_source = {"source": covered(here, lost)}
    cap = {**paper["policy"], "epsilon_cap": "16"}
    reign = {**paper["policy"], "voting": {**paper["policy"]["voting"], "pause": 3}}
    first = here.state.charter.policy.model_dump(mode="json")
    roots, fewer = paper["voters"], dict(paper["voters"])
    del fewer["de"]
    weak = re.sub(r"(?m)^(group \w+) \d", r"\1 1", paper["trust"])
    other = World(rules={"max_attempt": 9}).adopt()
    return {
        "kind": [({"kind": "tapestry-ballot/1"}, "schema-violated")],
        "federation": [({"federation": "another"}, DIFFERS)],
        "index": [({"index": lost}, DIFFERS), ({"index": len(world.entries)}, DIFFERS)],
        "entry": [
            ({"entry": "e30="}, "schema-violated"),
            ({"entry": covered(here, lost)["entry"]}, "inclusion-proof-invalid"),
        ],
        "proof": [
            ({"proof": "c2sp.org/tlog-proof@v1\n"}, "proof-malformed"),
            ({"proof": covered(here, lost)["proof"]}, "inclusion-proof-invalid"),
            ({"proof": here.note.decode()}, "proof-malformed"),
        ],
        "trust": [
            ({"trust": "quorum none\n"}, "signature-missing"),
            ({"trust": weak}, None),
        ],
        "charter": [
            ({"charter": covered(here, 1)}, DIFFERS),
            ({"charter": covered(view(other), 0)}, DIFFERS),
            (
                {
                    "charter": covered(here, 0)
                    | {"entry": covered(view(other), 0)["entry"]}
                },
                "inclusion-proof-invalid",
            ),
        ],
        "policy": [
            ({"policy": cap}, DIFFERS),
            ({"policy": reign}, DIFFERS),
            ({"policy": first, "source": None}, DIFFERS),
            (losing, DIFFERS),
            (losing | losing_source, None),
        ],
        "source": [
            ({"source": None}, DIFFERS),
            ({"source": covered(here, index)}, DIFFERS),
            ({"source": covered(here, 5)}, DIFFERS),
            (losing_source, DIFFERS),
            (losing | losing_source, None),
        ],
        "voters": [
            ({"voters": fewer}, DIFFERS),
            ({"voters": {**roots, "zz": roots["de"]}}, DIFFERS),
            ({"voters": {**roots, "de": roots["fr"], "fr": roots["de"]}}, None),
        ],
        "votes": [({"votes": {"de": "no", "zz": "yes"}}, None)],
        "needed": [
            ({"needed": each}, DIFFERS if is_proven else None) for each in (1, 4)
        ],
    }


def opened_or_code(data: bytes) -> OpenedPaper | str:
    try:
        return open_paper(BallotPaper.decode(data, limit=1 << 20))
    except TapestryError as error:
        return error.code


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("field", BallotPaper.model_fields)
def test_a_ballot_that_was_changed_is_refused_or_shows_it_as_not_proven(
    field: str, rounds: int
) -> None:
    world, lost, index = contested(rounds=rounds)
    paper = make_paper(view(world), index)
    honest = list(paper_lines(open_paper(paper), from_file=True))
    for changes, code in forgeries(world, lost, index)[field]:
        data = canonical_json({**paper.model_dump(mode="json"), **changes})
        assert data != paper.encode()
        opened = opened_or_code(data)
        if not isinstance(opened, OpenedPaper):
            assert opened == code, changes
            continue
        assert code is None, changes
        shown = list(paper_lines(opened, from_file=True))
        for line in set(shown) - set(honest):
            assert "the file says" in line
        assert shown[-1] == honest[-1]
        assert shown[-1].startswith("proven    each line without")


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_next_policy_is_shown_in_full_and_what_it_replaces_if_that_is_proven(
    rounds: int,
) -> None:
    """A round under policy 2 proves it; of two proposals of it one lost."""
    world, lost, index = contested(rounds=rounds)
    paper = make_paper(view(world), index)
    opened = open_paper(paper, trust=world.trust)
    assert opened.replaces == (rounds == 2)
    assert opened.genesis == world.genesis
    lines = list(paper_lines(opened, from_file=True))
    said = "" if opened.replaces else ", the file says"
    assert f"proposal  * epsilon_cap            16  (was 8{said})" in lines
    table = [line.split()[1:] for line in lines if line.startswith("proposal ")][1:]
    assert isinstance(opened.proposal, PolicyChange)
    rows = policy_rows(opened.proposal.policy)
    assert [row[row[0] == "*"] for row in table] == list(rows)
    from_log = list(paper_lines(opened, from_file=False))
    assert not [line for line in from_log if opened.replaces and "says" in line]
    ballot = world.folded.ballots[lost]
    assert ballot.outcome == "overtaken"


def test_the_policy_of_the_charter_needs_no_other_proof(world: World) -> None:
    index = world.propose(new_policy(world, epsilon_cap="999"))
    paper = make_paper(view(world), index)
    assert paper.source is None
    opened = open_paper(paper)
    assert opened.replaces
    few = [line for line in paper_lines(opened, from_file=True) if "(was" in line]
    assert [line.split()[2:4] for line in few] == [
        ["version", "2"], ["epsilon_cap", "999"]
    ]  # fmt: skip


def test_what_a_withdrawal_does_is_the_files_word(world: World) -> None:
    index = world.propose(withdrawal(world, "base-1"))
    opened = open_paper(make_paper(view(world), index))
    (line,) = [s for s in paper_lines(opened, from_file=True) if "withdraw " in s]
    assert line.endswith("the policy refuses it (the file says)")
    (line,) = [s for s in paper_lines(opened, from_file=False) if "withdraw " in s]
    assert line.endswith("the policy refuses it")


def test_of_a_release_voters_votes_and_how_many_it_takes_are_the_files_word(
    world: World,
) -> None:
    index = world.folded.release_named("base-1").index
    paper = make_paper(view(world), index)
    assert all(
        line.endswith(" (the file says)")
        for line in paper_lines(open_paper(paper), from_file=True)
        if line.startswith(("voters", "so far", "needed"))
    )


def test_the_member_that_a_proposal_is_about_is_no_voter(
    world: World, paper: BallotPaper
) -> None:
    root = str(world.keys["id", "root"].verify_key)
    with refused(RuleError, "ballot-inconsistent"):
        open_paper(paper.model_copy(update={"voters": {**paper.voters, "id": root}}))


def test_proofs_under_two_checkpoints_are_no_ballot(
    world: World, paper: BallotPaper
) -> None:
    world.vote(paper.index, "es")
    later = make_paper(view(world), paper.index)
    with refused(RuleError, "ballot-inconsistent"):
        open_paper(later.model_copy(update={"charter": paper.charter}))


def test_another_entry_needs_its_own_proof(world: World, paper: BallotPaper) -> None:
    other = World().found()
    index = other.propose(PauseProposal(kind="pause"))
    forged = make_paper(
        view_of(other.entries, note=other.note(), founding=other.trust), index
    )
    with refused(VerificationError, "inclusion-proof-invalid"):  # of the other log
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
