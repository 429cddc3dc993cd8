"""Attacks on a node's view; numbers in brackets are rows of the attack matrix."""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tapestry.encoding import decode_json
from tapestry.errors import (
    IncompleteError,
    InconsistentLog,
    PolicyError,
    ProtocolError,
    QuorumError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry_governance.events.types import RoundOpened
from tapestry_governance.log.mirror import LogMirror
from tests.support.log_world import NAMES, World, fake_digest, renamed


@pytest.fixture
def world() -> World:
    return World().grow()


@pytest.fixture
def view(world: World, tmp_path: Path) -> Iterator[LogMirror]:
    view = reopen(world, tmp_path)
    yield view
    view.close()


def reopen(world: World, folder: Path, *, genesis: str | None = None) -> LogMirror:
    return LogMirror.open(
        folder / "view.db", trust=world.trust, genesis=genesis or world.genesis
    )


def follow(view: LogMirror, world: World, size: int | None = None) -> None:
    entries = world.entries[:size]
    view.extend(view.size, entries[view.size :], world.note(entries))
    view.accept_checkpoint(world.note(entries), world.now)


def test_a_view_follows_the_log_in_steps_of_any_size(
    world: World, view: LogMirror, tmp_path: Path
) -> None:
    assert view.seen is None
    for size in (1, 2, 7, 7, 20, 26):
        follow(view, world, size)
        assert view.size == size
        assert view.seen == world.seen(size)
    assert view.state.root == world.folded.root
    assert view.contains(world.entries[9])
    assert view.entries(3, 5) == world.entries[3:5]
    again = reopen(world, tmp_path)
    assert (again.size, again.seen, again.state) == (26, view.seen, again.state)
    again.close()


def test_entries_that_are_known_may_come_again(world: World, view: LogMirror) -> None:
    follow(view, world, 5)
    view.extend(2, world.entries[2:9], world.note(world.entries[:9]))
    assert view.size == 9


def test_nothing_is_acted_on_before_a_quorum(
    world: World, view: LogMirror
) -> None:  # [5]
    view.extend(0, world.entries, world.note(witnesses=()))
    assert view.seen is None
    assert not view.contains(world.entries[0])
    for witnesses in ((), NAMES[:1], NAMES[:2]):
        with pytest.raises(QuorumError):
            view.accept_checkpoint(world.note(witnesses=witnesses), world.now)
    view.accept_checkpoint(world.note(witnesses=NAMES[1:]), world.now)
    assert view.contains(world.entries[0])


def test_a_cosignature_of_a_view_counts_at_the_log(
    world: World, view: LogMirror
) -> None:
    view.extend(0, world.entries, world.note(witnesses=()))
    line = view.cosign(world.keys["fr", "witness"], world.now)
    held = world.trust.open_cosignature(world.checkpoint(), line)
    assert held.time == int(world.now.timestamp())


def test_a_rollback_is_refused_and_kept(world: World, view: LogMirror) -> None:  # [3]
    follow(view, world)
    older = world.entries[:20]
    with pytest.raises(InconsistentLog, match="rollback"):
        view.extend(20, [], world.note(older))
    with pytest.raises(InconsistentLog, match="rollback"):
        view.accept_checkpoint(world.note(older), world.now)
    assert [item.note for item in view.evidence()] == [world.note(older)] * 2
    assert view.size == 26


def other_history(world: World) -> list[bytes]:
    fork = World()
    fork.ids = 1000
    for entry in world.entries[:14]:
        fork.append(entry)
    fork.now = world.now
    for name in NAMES * 3:
        fork.add(fork.declaration(name), name, "node")
    return fork.entries


def test_a_fork_is_refused_and_kept(world: World, view: LogMirror) -> None:  # [2, 5]
    follow(view, world, 20)
    fork = other_history(world)
    with pytest.raises(InconsistentLog, match="fork"):
        view.extend(20, fork[20:], world.note(fork))
    with pytest.raises(InconsistentLog, match="fork"):
        view.extend(14, fork[14:], world.note(fork))
    with pytest.raises(InconsistentLog, match="fork"):
        view.extend(20, [], world.note(fork[:20]))
    with pytest.raises(InconsistentLog, match="fork"):
        view.accept_checkpoint(world.note(fork[:20]), world.now)
    assert view.state.root.hex() == world.seen(20).root
    kept = view.evidence()[1]
    assert kept.note == world.note(fork)
    assert len(decode_json(kept.update, limit=1 << 20)["entries"]) == 12
    follow(view, world)


def test_a_rewritten_entry_is_refused(world: World, view: LogMirror) -> None:  # [1]
    entries = list(world.entries)
    entries[4] = entries[4].replace(b"A", b"B", 1)
    with pytest.raises(InconsistentLog, match="another log"):
        view.extend(0, entries, world.note())
    with pytest.raises(ProtocolError):
        view.extend(0, entries, world.note(entries))
    assert view.size == 0


def test_an_update_with_a_gap_or_a_wrong_count_is_refused(
    world: World, view: LogMirror
) -> None:
    follow(view, world, 5)
    for start, entries in (
        (6, world.entries[6:]),
        (5, world.entries[5:-1]),
        (-1, world.entries),
        (5, []),
    ):
        with pytest.raises(ProtocolError, match="do not lead"):
            view.extend(start, entries, world.note())
    with pytest.raises(ProtocolError, match="5 are stored"):
        view.accept_checkpoint(world.note(), world.now)


def test_a_log_that_breaks_the_rules_is_not_stored(
    world: World, view: LogMirror
) -> None:
    bad = renamed(world.manifest(3), policy_digest=fake_digest("lax"))
    entries = [*world.entries, world.entry(RoundOpened(manifest=bad))]
    with pytest.raises(RuleError, match="not in force"):
        view.extend(0, entries, world.note(entries))
    assert view.size == 0
    assert "not in force" in view.evidence()[0].reason


def test_another_log_key_is_refused(world: World, view: LogMirror) -> None:  # [19]
    stranger = World()
    stranger.log_key = world.keys["fr", "node"]
    with pytest.raises(VerificationError):
        view.extend(0, world.entries, stranger.note(world.entries))


def test_another_genesis_is_refused(world: World, tmp_path: Path) -> None:
    view = reopen(world, tmp_path, genesis=fake_digest("elsewhere"))
    with pytest.raises(VerificationError, match="entry 0"):
        view.extend(0, world.entries, world.note())
    view.close()


def test_a_frozen_log_goes_stale(world: World, view: LogMirror) -> None:  # [4]
    follow(view, world)
    view.accept_checkpoint(world.note(), world.now + timedelta(hours=24))
    with pytest.raises(PolicyError, match="old"):
        view.accept_checkpoint(world.note(), world.now + timedelta(hours=24, seconds=1))


def test_the_policy_may_shorten_how_old_a_log_may_be(tmp_path: Path) -> None:
    world = World(rules={"max_checkpoint_age": 60}).found()
    view = reopen(world, tmp_path)
    follow(view, world)
    with pytest.raises(PolicyError, match="at most 60"):
        view.accept_checkpoint(world.note(), world.now + timedelta(seconds=61))
    view.close()


def test_clocks_that_lie_are_noticed(world: World, view: LogMirror) -> None:  # [20]
    view.extend(0, world.entries, world.note())
    ahead = world.note(at=world.now + timedelta(seconds=301))
    with pytest.raises(PolicyError, match="ahead"):
        view.accept_checkpoint(ahead, world.now)
    view.accept_checkpoint(world.note(), world.now)
    behind = world.note(at=world.now - timedelta(seconds=301))
    with pytest.raises(PolicyError, match="before the last one"):
        view.accept_checkpoint(behind, world.now)


def at(world: World, *minutes: int) -> bytes:
    """Have the witnesses cosign all entries, each by a clock of its own."""
    lines = [
        world.checkpoint().cosign(
            world.keys[name, "witness"],
            time=int((world.now + timedelta(minutes=offset)).timestamp()),
        )
        for name, offset in zip(NAMES, minutes, strict=False)
    ]
    return world.checkpoint().sign(world.log_key) + b"".join(lines)


def test_one_fast_and_one_slow_clock_stop_nobody(world: World, view: LogMirror) -> None:
    view.extend(0, world.entries, world.note())
    view.accept_checkpoint(at(world, 60, 0, 0, 0), world.now)
    view.accept_checkpoint(at(world, 60, -60, 0), world.now)
    view.accept_checkpoint(at(world, 0, -60, 60, 0), world.now)


def test_one_witness_does_not_freshen_an_old_log(world: World, view: LogMirror) -> None:
    """The coordinator shows what all cosigned long ago, and a friend's line of now."""
    follow(view, world)
    later = timedelta(hours=25)
    minutes = [0, 0, 0, 25 * 60]
    with pytest.raises(PolicyError, match="old"):
        view.accept_checkpoint(at(world, *minutes), world.now + later)
    view.accept_checkpoint(at(world, 0, 0, *minutes[-1:] * 2), world.now + later)


def test_a_shorter_age_is_kept_and_a_longer_one_is_not(
    world: World, view: LogMirror
) -> None:
    follow(view, world)
    with pytest.raises(PolicyError, match="at most 60"):
        view.accept_checkpoint(
            world.note(), world.now + timedelta(seconds=61), max_age=60
        )
    with pytest.raises(PolicyError, match="at most 86400"):
        view.accept_checkpoint(
            world.note(), world.now + timedelta(hours=25), max_age=10**6
        )


def test_what_is_over_is_confirmed_by_an_older_checkpoint(
    world: World, view: LogMirror
) -> None:
    with pytest.raises(ProtocolError):
        view.verify_prefix(world.note(world.entries[:20]))
    view.extend(0, world.entries, world.note(witnesses=()))
    assert view.verify_prefix(world.note(world.entries[:20])) == 20
    assert view.verify_prefix(world.note()) == 26
    assert view.seen is None
    with pytest.raises(QuorumError):
        view.verify_prefix(world.note(world.entries[:20], witnesses=NAMES[:2]))
    fork = other_history(world)
    with pytest.raises(InconsistentLog, match="fork"):
        view.verify_prefix(world.note(fork[:20]))
    assert [item.note for item in view.evidence()] == [world.note(fork[:20])]


def test_a_view_that_was_tampered_with_does_not_open(
    world: World, view: LogMirror, tmp_path: Path
) -> None:
    follow(view, world)
    database = sqlite3.connect(tmp_path / "view.db")
    with database:
        database.execute("DELETE FROM entry WHERE idx >= 20")
    with pytest.raises(VerificationError, match="own checkpoint"):
        reopen(world, tmp_path)
    with database:
        database.execute("DELETE FROM entry WHERE idx = 3")
    database.close()
    with pytest.raises(VerificationError, match="lost entries"):
        reopen(world, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entry SET bytes = NULL",
        "UPDATE signed SET note = NULL",
        "UPDATE accepted SET note = NULL",
    ],
)
def test_a_view_with_other_types_than_it_stored_does_not_open(
    world: World, view: LogMirror, tmp_path: Path, change: str
) -> None:
    follow(view, world)
    with sqlite3.connect(tmp_path / "view.db") as database:
        database.execute(change)
    database.close()
    with pytest.raises(VerificationError, match="the view is damaged; put its newest"):
        reopen(world, tmp_path)


@pytest.mark.parametrize("readonly", [False, True])
def test_a_view_cut_anywhere_is_an_error_of_ours(
    world: World, view: LogMirror, tmp_path: Path, *, readonly: bool
) -> None:
    """SQLite reads NULL and numbers where the rest of a row was cut off."""
    follow(view, world)
    view.close()
    whole, path = (tmp_path / "view.db").read_bytes(), tmp_path / "cut.db"
    for end in range(1, len(whole), 997):
        path.write_bytes(whole[:end])
        with suppress(TapestryError):
            LogMirror.open(
                path, trust=world.trust, genesis=world.genesis, readonly=readonly
            ).close()


def test_an_empty_view_has_nothing_to_say(world: World, view: LogMirror) -> None:
    with pytest.raises(IncompleteError):
        view.cosign(world.keys["fr", "witness"], world.now)
    with pytest.raises(IncompleteError):
        _ = view.state
