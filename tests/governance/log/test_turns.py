"""Whose word counts, as the log itself changes its witnesses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import QuorumError, VerificationError
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.tlog.turn import Turn
from tapestry_governance.events.member_events import Removal
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.log.turns import Turns
from tests.support.log_world import NAMES, World
from tests.support.proposals import new_coordinator, new_key
from tests.support.refusals import refused

NEW = "pl"


def admitted() -> tuple[World, int]:
    """Admit a fifth member; returns the size from which on it counts."""
    world = World().found()
    world.decide(world.invent(NEW))
    world.add(world.declaration(NEW), NEW, "node")
    return world, len(world.entries)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[LogMirror]:
    world = World().adopt()
    mirror = LogMirror.open(
        tmp_path / "mirror.db", trust=world.trust, genesis=world.genesis
    )
    yield mirror
    mirror.close()


def test_the_policy_from_outside_counts_until_the_log_changes_its_witnesses() -> None:
    world, size = admitted()
    founding = world.trust
    stricter = TrustPolicy.parse(founding.encode().replace(b"members 3", b"members 4"))
    turns, state = Turns(stricter), world.folded
    for before in (0, 5, size - 1):
        assert turns.in_force(state, before) is stricter
    for after in (size, size + 9):
        assert turns.in_force(state, after) == state.trust
    assert turns.in_force(None, 0) is stricter
    assert len(state.trust.witnesses) == len(NAMES) + 1
    assert turns.to_accept(state, size, since=size) == state.trust
    turn = turns.to_accept(state, size, since=size - 1)
    assert turn == Turn(before=stricter, now=state.trust)
    assert turns.to_accept(state, 5, since=size) is stricter  # an older one


def test_a_turn_is_the_first_checkpoint_after_a_change() -> None:
    world, size = admitted()
    turns = Turns(world.trust)
    assert turns.sizes(world.folded, [4, 8, size + 2, size + 5]) == [size + 2]
    assert turns.sizes(world.folded, [4, 8]) == []
    assert turns.sizes(World().found().folded, [4, 8]) == []


def test_a_mirror_accepts_a_turn_by_both_sets_and_what_follows_by_the_new(
    mirror: LogMirror,
) -> None:
    world, size = admitted()
    mirror.extend(0, world.entries, world.note())
    old, new = NAMES[:3], (*NAMES[:3], NEW)  # four of five are the new quorum
    with refused(QuorumError, "quorum-not-reached"):
        mirror.accept_checkpoint(world.note(witnesses=old), world.now)
    turn = world.note(witnesses=new)
    assert mirror.accept_checkpoint(turn, world.now).checkpoint.size == size
    assert mirror.turns() == [turn]
    assert mirror.trust == world.folded.trust
    world.add(world.declaration("fr"), "fr", "node")
    mirror.extend(size, world.entries[size:], world.note())
    with refused(QuorumError, "quorum-not-reached"):
        mirror.accept_checkpoint(world.note(witnesses=NAMES[:3]), world.now)
    mirror.accept_checkpoint(world.note(witnesses=("es", "fr", "id", NEW)), world.now)


def test_who_was_away_steps_from_turn_to_turn(mirror: LogMirror) -> None:
    world, size = admitted()
    first = world.note(witnesses=(*NAMES, NEW))
    world.decide(Removal(kind="remove", member="de"), "es", "fr", "id", NEW)
    world.add(world.declaration("fr"), "fr", "node")
    second = world.note(witnesses=(*NAMES, NEW))
    world.add(world.declaration("es"), "es", "node")
    newest = world.note(witnesses=("es", "fr", NEW))  # two of the founding four
    mirror.extend(0, world.entries, newest)
    left = world.note(witnesses=("de", "es", "fr"))  # that counted at the founding
    for note in (newest, left):
        with refused(QuorumError, "quorum-not-reached"):
            mirror.accept_checkpoint(note, world.now)
    with refused(QuorumError, "quorum-not-reached"):
        mirror.step([world.note(world.entries[:size], witnesses=NAMES[:3])])
    mirror.step([first, second])
    mirror.step([first])  # passed already
    assert mirror.turns() == [first, second]
    mirror.accept_checkpoint(newest, world.now)
    assert "de.example/witness" not in {w.name for w in mirror.trust.witnesses}


def test_founders_that_left_sign_no_other_history(mirror: LogMirror) -> None:
    """Their keys are a quorum of the founding policy, and of nothing later."""
    world, size = admitted()
    mirror.extend(0, world.entries, world.note())
    mirror.accept_checkpoint(world.note(witnesses=(*NAMES[:3], NEW)), world.now)
    fork = World().found()
    fork.add(fork.declaration("id"), "id", "node")
    for name in NAMES:
        fork.add(fork.declaration(name), name, "node")
        fork.add(fork.declaration(name), name, "node")
    assert len(fork.entries) > size
    with pytest.raises(VerificationError, match="fork"):
        mirror.extend(0, fork.entries, fork.note(witnesses=NAMES))
    (evidence,) = mirror.evidence()
    assert evidence.note == fork.note(witnesses=NAMES)


def test_the_key_of_another_coordinator_counts_by_the_vote_and_the_old_quorum(
    mirror: LogMirror,
) -> None:
    world, old = World().adopt(), World().log_key
    before = world.note()
    mirror.extend(0, world.entries, before)
    mirror.accept_checkpoint(before, world.now)
    size = len(world.entries)
    index = world.propose(new_coordinator(world))
    world.log_key = new_key(old.name)
    unnamed = world.note(witnesses=())
    with refused(VerificationError, "signature-missing"):  # before the vote
        mirror.extend(size, world.entries[size:], unnamed)
    world.vote(index, "de", "es", "fr")
    fresh = world.entries[size:]
    world.log_key = old
    with refused(VerificationError, "signature-missing"):  # the old one signs no more
        mirror.extend(size, fresh, world.note(witnesses=()))
    world.log_key = new_key(old.name)
    mirror.extend(size, fresh, world.note(witnesses=()))
    with refused(QuorumError, "quorum-not-reached"):
        mirror.accept_checkpoint(world.note(witnesses=NAMES[:2]), world.now)
    turn = world.note()
    mirror.accept_checkpoint(turn, world.now)
    assert mirror.turns() == [turn]
    assert mirror.signed == world.note(witnesses=())
