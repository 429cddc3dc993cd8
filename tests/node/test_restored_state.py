"""What a node accepts as the word of others after its state was restored."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tapestry.errors import InconsistentLog, PolicyError, VerificationError
from tapestry.protocol.messages import Reason
from tapestry.protocol.round_manifest import Participant
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.freshness import MAX_AHEAD
from tapestry.tlog.trust_policy import witness_quorum
from tapestry_governance.founding import generate_member_key
from tapestry_governance.key_turn import place_key
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.budget.ledger import Ledger
from tapestry_node.node_keys import KeyRing
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.restored_state import (
    check_memory,
    cosign,
    cosigning_key,
    is_enough,
    require_settled,
)
from tapestry_node.round.survivor_marks import UploadMark
from tapestry_node.state_entries import Restored
from tests.node.budget.test_ledger import TERMS, charge, open_ledger, shared
from tests.support.log_world import World
from tests.support.plans import privacy_plan, round_manifest
from tests.support.refusals import refused
from tests.support.unsigned_accounts import unsigned
from tests.tapestry.tlog.test_freshness import NOW, WITNESSES, cosigned, of_members

RESTORED = Restored(since=7, time=datetime.fromtimestamp(NOW, UTC))
ENOUGH = NOW + MAX_AHEAD + 1
OWN = {WITNESSES[0].verify_key.keyid}


def settles(times: Sequence[int], *, members: int) -> bool:
    trust = of_members(members)
    return is_enough(cosigned(trust, times), RESTORED, trust=trust, own=OWN)


@pytest.mark.parametrize("members", range(2, 11))
def test_a_quorum_of_others_is_enough_and_one_fewer_is_not(members: int) -> None:
    """The own line, the first one, counts for nothing."""
    quorum = witness_quorum(members)
    lines = [ENOUGH] * members
    assert settles(lines, members=members) == (quorum < members)
    assert not settles([ENOUGH] * quorum, members=members)


def test_lines_from_before_the_restoration_count_for_nothing() -> None:
    """Neither do those within the time by which clocks may differ."""
    assert settles([NOW, ENOUGH, ENOUGH, ENOUGH], members=4)
    for early in (NOW - 1, NOW, NOW + MAX_AHEAD):
        assert not settles([ENOUGH, ENOUGH, ENOUGH, early], members=4)


def test_any_two_quorums_without_the_node_in_one_share_an_honest_other() -> None:
    """Why it is safe: with the node itself there may be up to f faulty ones more."""
    for members in range(2, 129):
        quorum, faulty = witness_quorum(members), (members - 1) // 3
        others = members - 1  # the old quorum may have had the node in it
        shared = quorum + (quorum - 1) - others
        assert shared > faulty


def test_a_restored_state_refuses_until_it_is_settled(tmp_path: Path) -> None:
    store = NodeState(tmp_path / "node.db")
    require_settled(store)
    store.mark_restored(since=7)
    with refused(Refused, "restored-unsettled", match=r"node\.db") as caught:
        require_settled(store)
    assert caught.value.reason is Reason.MAINTENANCE
    store.require({"run": 3})  # it knows that it does not know
    with store.writing() as replay:
        replay.append({"type": "settled", "size": 9})
    require_settled(store)
    store.close()


def ring_of(folder: Path) -> KeyRing:
    """Lay three keys, and read them."""
    (folder / "keys").mkdir()
    for purpose in ("node", "witness", "community"):
        place_key(
            generate_member_key("fr", purpose), folder / "keys" / f"{purpose}.key"
        )
    return KeyRing.read(folder, "fr")


def test_after_a_restoration_a_new_witness_key_cosigns_alone(tmp_path: Path) -> None:
    store, ring = NodeState(tmp_path / "node.db"), ring_of(tmp_path)
    old = ring.keys["witness"]
    assert cosigning_key(store, ring, tmp_path) is old
    store.mark_restored(since=7)
    with refused(Refused, "witness-not-rotated", match=r"node rotate .* witness"):
        cosigning_key(store, ring, tmp_path)
    new = generate_member_key("fr", "witness")
    place_key(new, tmp_path / "keys" / "witness.next")
    ring = KeyRing.read(tmp_path, "fr")
    with refused(Refused, "witness-not-rotated"):
        cosigning_key(store, ring, tmp_path)  # it may be as old as the other
    store.keep_witness(str(new.verify_key))
    assert cosigning_key(store, ring, tmp_path).verify_key == new.verify_key
    store.close()
    store = NodeState(tmp_path / "node.db")
    assert cosigning_key(store, ring, tmp_path).verify_key == new.verify_key
    store.mark_restored(since=9)
    with refused(Refused, "witness-not-rotated"):
        cosigning_key(store, ring, tmp_path)
    store.close()


def test_a_line_over_more_than_is_stored_shows_that_something_was_forgotten(
    tmp_path: Path,
) -> None:
    store, ring = NodeState(tmp_path / "node.db"), ring_of(tmp_path)
    claim = Checkpoint(origin="fr.example/log", size=5, root=bytes(32))
    own, other = ring.keys["witness"], generate_member_key("de", "witness")
    notes = [
        str(claim).encode() + b"\n" + claim.cosign(each, time=NOW)
        for each in (own, other)
    ]
    check_memory(store, ring, size=5, notes=notes)
    check_memory(store, ring, size=4, notes=notes[1:])
    assert store.may_cosign(str(own.verify_key))
    forged = notes[0].replace(b"\n5\n", b"\n6\n")
    with refused(VerificationError, "signature-invalid"):
        check_memory(store, ring, size=5, notes=[forged])
    assert store.may_cosign(str(own.verify_key))
    store.keep_cosigned(5, "root")
    check_memory(store, ring, size=4, notes=notes)  # the mirror alone is older
    assert store.may_cosign(str(own.verify_key))
    store.close()
    (tmp_path / "other").mkdir()
    store = NodeState(tmp_path / "other" / "node.db")
    check_memory(store, ring, size=4, notes=notes)
    assert not store.may_cosign(str(own.verify_key))
    number = store.reading().number
    check_memory(store, ring, size=4, notes=notes)  # noted once
    assert store.reading().number == number
    store.close()


def test_what_is_cosigned_is_noted_once(tmp_path: Path) -> None:
    world = World().found()
    store, ring = NodeState(tmp_path / "node.db"), ring_of(tmp_path)
    mirror = mirror_of(world, tmp_path / "view.db")
    assert store.cosigned == (0, "")
    lines = signed(store, ring, mirror)
    assert lines == [
        mirror.cosign(ring.keys["witness"], datetime.fromtimestamp(NOW, UTC))
    ]
    number = store.reading().number
    assert signed(store, ring, mirror) == lines
    assert store.reading().number == number
    store.close()
    store = NodeState(tmp_path / "node.db")
    assert store.cosigned == (mirror.size, mirror.state.root.hex())
    mirror.close()
    store.close()


def test_by_its_notes_a_node_cosigns_nothing_but_what_extends_them(
    tmp_path: Path,
) -> None:
    """Its mirror may be an older copy, or made anew of another log."""
    world, fork = World().found(), World().found()
    store, ring = NodeState(tmp_path / "node.db"), ring_of(tmp_path)
    short = mirror_of(world, tmp_path / "short.db")
    for each, name in ((world, "de"), (fork, "es")):
        each.add(each.declaration(name), name, "node")
    whole, other = (
        mirror_of(each, tmp_path / name)
        for each, name in ((world, "whole.db"), (fork, "other.db"))
    )
    signed(store, ring, whole)
    with refused(Refused, "mirror-behind-cosigned", match=str(whole.size)) as caught:
        signed(store, ring, short)
    assert caught.value.reason is Reason.MAINTENANCE
    with refused(InconsistentLog, "log-forked", match=str(whole.size)):
        signed(store, ring, other)
    assert store.cosigned == (whole.size, whole.state.root.hex())
    for mirror in (short, whole, other):
        mirror.close()
    store.close()


def mirror_of(world: World, path: Path) -> LogMirror:
    mirror = LogMirror.open(path, trust=world.trust, genesis=world.genesis)
    mirror.extend(0, world.entries, world.note())
    return mirror


def signed(store: NodeState, ring: KeyRing, mirror: LogMirror) -> list[bytes]:
    now = datetime.fromtimestamp(NOW, UTC)
    return cosign(store, mirror, ring, folder=store.path.parent, now=now)


def test_the_earliest_of_two_restorations_counts(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    store = NodeState(path)
    store.mark_restored(since=7)
    store.mark_restored(since=9)
    store.close()
    store = NodeState(path)
    assert store.restored is not None
    assert store.restored.since == 7
    store.close()


def test_what_was_reserved_counts_as_spent_at_once(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    ledger, store = open_ledger(path, TERMS), NodeState(path)
    ledger.reserve(charge(1))
    store.mark_restored(since=0)
    assert [row.state for row in ledger.rows()] == ["spent"]
    ledger.release(charge(1))
    assert ledger.balance().spent > 0
    ledger.require([charge(2)])  # compared when it has caught up
    store.close()


def test_what_is_assumed_may_be_over_the_limit_and_then_nothing_fits(
    tmp_path: Path,
) -> None:
    path = tmp_path / "node.db"
    ledger = open_ledger(path, TERMS)
    store = NodeState(path)
    number = 0
    while ledger.balance().spent <= TERMS.epsilon:
        number += 1
        with store.writing() as replay:
            replay.assume(charge(number))
            replay.account(charge(number).key, unsigned)
    assert ledger.rounds_left(charge(number + 1)) == 0
    with refused(PolicyError, "budget-exhausted"):
        Ledger(store, TERMS).reserve(charge(number + 1))
    store.close()


def test_an_account_that_is_taken_over_keeps_its_number(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    open_ledger(path, TERMS)
    store = NodeState(path)
    with store.writing() as replay:
        replay.assume(charge(1))
        replay.account(charge(1).key, unsigned)
        replay.adopt(charge(3).key, b"of the log", number=3)
    store.close()
    store = NodeState(path)
    assert store.reading().last_account == 3
    assert store.account(charge(4).key, unsigned).startswith(b"account 4 ")
    store.close()


def reserved_and_restored(path: Path) -> NodeState:
    """A state that had reserved one attempt of a round, and does not know more."""
    open_ledger(path, TERMS).reserve(shared(1, own=0.6))
    store = NodeState(path)
    store.mark_restored(since=0)
    return store


def marks(*attempts: int) -> list[UploadMark]:
    nodes = [Participant(name=name, key=f"key-of-{name}") for name in ("de", "es")]
    return [
        UploadMark.of(
            round_manifest(nodes, attempt=each, privacy=privacy_plan(noise="shared"))
        )
        for each in attempts
    ]


def test_another_attempt_than_the_one_reserved_may_have_been_paid(
    tmp_path: Path,
) -> None:
    """Its nodes are others, and so is the share of the noise."""
    path = tmp_path / "node.db"
    store = reserved_and_restored(path)
    dearer = shared(1, own=0.4)
    for _ in range(2):  # settling is repeated after a crash
        store.assume_upload(marks(1, 2), charge=dearer, sign=unsigned)
    store.close()
    replay = NodeState(path).reading()
    assert [(row.charge, row.state) for row in replay.rows.values()] == [
        (dearer, "spent")
    ]
    assert [mark.attempt for mark in replay.uploads] == [1, 2]
    assert list(replay.accounted) == [dearer.key]


def test_what_was_accounted_for_is_what_an_attempt_cost(tmp_path: Path) -> None:
    """By the log the node paid for the second attempt; the first was dearer."""
    store = reserved_and_restored(tmp_path / "node.db")
    paid = shared(1, own=0.7)
    with store.writing() as replay:
        replay.assume_instead(paid)
        replay.adopt(paid.key, b"of the log", number=1)
    store.assume_upload(marks(1, 2), charge=shared(1, own=0.4), sign=unsigned)
    assert [row.charge for row in store.reading().rows.values()] == [paid]
    assert store.highest("run-1") == 1
    store.close()
