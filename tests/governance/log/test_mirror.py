"""Attacks on a node's mirror of the log; rows of the attack matrix in brackets."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

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
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.log import mirror as mirror_module
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.replay import apply_all
from tests.support.log_world import NAMES, World, fake_digest, renamed
from tests.support.refusals import refused


@pytest.fixture
def world() -> World:
    return World().grow()


@pytest.fixture
def mirror(world: World, tmp_path: Path) -> Iterator[LogMirror]:
    mirror = reopen(world, tmp_path)
    yield mirror
    mirror.close()


def reopen(world: World, folder: Path, *, genesis: str | None = None) -> LogMirror:
    return LogMirror.open(
        folder / "mirror.db", trust=world.trust, genesis=genesis or world.genesis
    )


def follow(mirror: LogMirror, world: World, size: int | None = None) -> None:
    entries = world.entries[:size]
    mirror.extend(mirror.size, entries[mirror.size :], world.note(entries))
    mirror.accept_checkpoint(world.note(entries), world.now)


def test_a_view_follows_the_log_in_steps_of_any_size(
    world: World, mirror: LogMirror, tmp_path: Path
) -> None:
    assert mirror.seen is None
    for size in (1, 2, 7, 7, 20, 30):
        follow(mirror, world, size)
        assert mirror.size == size
        assert mirror.seen == world.seen(size)
    assert mirror.state.root == world.folded.root
    assert mirror.contains(world.entries[13])
    assert mirror.entries(3, 5) == world.entries[3:5]
    again = reopen(world, tmp_path)
    assert (again.size, again.seen, again.state) == (30, mirror.seen, again.state)
    again.close()


def test_a_reader_sees_one_moment_while_the_mirror_grows(
    world: World, mirror: LogMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries of before and a checkpoint of after would look like damage."""
    follow(mirror, world, 20)
    real = apply_all

    def slow(state: Any, entries: Iterable[bytes]) -> Any:
        found = real(state, entries)
        monkeypatch.setattr(mirror_module, "apply_all", real)
        follow(mirror, world, 30)
        return found

    monkeypatch.setattr(mirror_module, "apply_all", slow)
    path = tmp_path / "mirror.db"
    reader = LogMirror.open(
        path, trust=world.trust, genesis=world.genesis, readonly=True
    )
    assert (mirror.size, reader.size, reader.seen) == (30, 20, world.seen(20))
    assert reader.accepted_sizes == [20]
    reader.close()


def test_entries_that_are_stored_already_are_skipped(
    world: World, mirror: LogMirror
) -> None:
    follow(mirror, world, 5)
    mirror.extend(2, world.entries[2:9], world.note(world.entries[:9]))
    assert mirror.size == 9


def test_no_entry_is_accepted_before_a_quorum_cosigned(
    world: World, mirror: LogMirror
) -> None:  # [5]
    mirror.extend(0, world.entries, world.note(witnesses=()))
    assert mirror.seen is None
    assert not mirror.contains(world.entries[0])
    for witnesses in ((), NAMES[:1], NAMES[:2]):
        count = f"{len(witnesses)} cosignatures"
        with refused(QuorumError, "quorum-not-reached", match=count):
            mirror.accept_checkpoint(world.note(witnesses=witnesses), world.now)
    mirror.accept_checkpoint(world.note(witnesses=NAMES[1:]), world.now)
    assert mirror.contains(world.entries[0])


def test_a_cosignature_of_a_view_counts_at_the_log(
    world: World, mirror: LogMirror
) -> None:
    mirror.extend(0, world.entries, world.note(witnesses=()))
    line = mirror.cosign(world.keys["fr", "witness"], world.now)
    held = world.trust.open_cosignature(world.checkpoint(), line)
    assert held.time == int(world.now.timestamp())


def test_a_rollback_is_refused_and_kept_as_evidence(
    world: World, mirror: LogMirror
) -> None:  # [3]
    follow(mirror, world)
    older = world.entries[:20]
    with refused(InconsistentLog, "log-shrunk", match="20 entries, 30 were"):
        mirror.extend(20, [], world.note(older))
    with refused(InconsistentLog, "log-shrunk", match="20 entries, 30 were"):
        mirror.accept_checkpoint(world.note(older), world.now)
    assert [item.note for item in mirror.evidence()] == [world.note(older)] * 2
    assert mirror.size == 30


def other_history(world: World) -> list[bytes]:
    fork = World()
    fork.ids = 1000
    for entry in world.entries[:14]:
        fork.append(entry)
    fork.now = world.now
    for name in NAMES * 3:
        fork.add(fork.declaration(name), name, "node")
    return fork.entries


def test_a_fork_is_refused_and_kept_as_evidence(
    world: World, mirror: LogMirror
) -> None:  # [2, 5]
    follow(mirror, world, 20)
    fork = other_history(world)
    with refused(InconsistentLog, "log-forked", match=f"other {len(fork)} entries"):
        mirror.extend(20, fork[20:], world.note(fork))
    with refused(InconsistentLog, "log-forked", match="14 to 20"):
        mirror.extend(14, fork[14:], world.note(fork))
    with refused(InconsistentLog, "log-forked", match="other 20 entries"):
        mirror.extend(20, [], world.note(fork[:20]))
    with refused(InconsistentLog, "log-forked", match="two logs of 20 "):
        mirror.accept_checkpoint(world.note(fork[:20]), world.now)
    assert mirror.state.root.hex() == world.seen(20).root
    kept = mirror.evidence()[1]
    assert kept.note == world.note(fork)
    assert len(decode_json(kept.update, limit=1 << 20)["entries"]) == 12
    follow(mirror, world)


def test_evidence_of_forks_is_bounded(
    world: World, mirror: LogMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that forks with every message fills no disk; the notes convict it."""
    follow(mirror, world, 20)
    fork = other_history(world)
    size = sum(map(len, fork[20:]))
    for limit, kept in ((size, len(fork) - 20), (size - 1, None)):
        monkeypatch.setattr(mirror_module, "EVIDENCE_BYTES", limit)
        with refused(InconsistentLog, "log-forked"):
            mirror.extend(20, fork[20:], world.note(fork))
        held = decode_json(mirror.evidence()[-1].update, limit=1 << 20)["entries"]
        assert (held and len(held)) == kept
        assert mirror.evidence()[-1].note == world.note(fork)
    for _ in range(2 * mirror_module.MAX_EVIDENCE):
        with refused(InconsistentLog, "log-forked"):
            mirror.extend(20, fork[20:], world.note(fork))
    assert len(mirror.evidence()) == mirror_module.MAX_EVIDENCE


def test_a_rewritten_entry_is_refused(world: World, mirror: LogMirror) -> None:  # [1]
    entries = list(world.entries)
    entries[4] = entries[4].replace(b"A", b"B", 1)
    with refused(InconsistentLog, "log-forked"):
        mirror.extend(0, entries, world.note())
    with refused(ProtocolError, "schema-violated"):
        mirror.extend(0, entries, world.note(entries))
    assert mirror.size == 0


def test_an_update_with_a_gap_or_a_wrong_count_is_refused(
    world: World, mirror: LogMirror
) -> None:
    follow(mirror, world, 5)
    for start, entries in (
        (6, world.entries[6:]),
        (5, world.entries[5:-1]),
        (-1, world.entries),
        (5, []),
    ):
        with refused(ProtocolError, "entry-range-differs"):
            mirror.extend(start, entries, world.note())
    with refused(ProtocolError, "checkpoint-beyond-mirror", match="30 .* 5 are"):
        mirror.accept_checkpoint(world.note(), world.now)


def test_a_log_that_breaks_the_rules_is_not_stored(
    world: World, mirror: LogMirror
) -> None:
    bad = renamed(world.manifest(3), policy_digest=fake_digest("lax"))
    entries = [*world.entries, world.entry(RoundOpened(manifest=bad))]
    with refused(RuleError, "policy-differs", match="entry 30"):
        mirror.extend(0, entries, world.note(entries))
    assert mirror.size == 0
    assert bad.policy_digest in mirror.evidence()[0].reason


def test_another_log_key_is_refused(world: World, mirror: LogMirror) -> None:  # [19]
    stranger = World()
    stranger.log_key = world.keys["fr", "node"]
    with refused(VerificationError, "log-signature-missing"):
        mirror.extend(0, world.entries, stranger.note(world.entries))


def test_another_genesis_is_refused(world: World, tmp_path: Path) -> None:
    mirror = reopen(world, tmp_path, genesis=fake_digest("elsewhere"))
    with refused(VerificationError, "genesis-differs", match=world.genesis):
        mirror.extend(0, world.entries, world.note())
    mirror.close()


def test_a_checkpoint_older_than_a_day_is_refused(
    world: World, mirror: LogMirror
) -> None:  # [4]
    follow(mirror, world)
    mirror.accept_checkpoint(world.note(), world.now + timedelta(hours=24))
    with refused(PolicyError, "checkpoint-too-old"):
        mirror.accept_checkpoint(
            world.note(), world.now + timedelta(hours=24, seconds=1)
        )


def test_the_policy_may_shorten_the_age_of_a_checkpoint(tmp_path: Path) -> None:
    world = World(rules={"max_checkpoint_age": 60}).found()
    mirror = reopen(world, tmp_path)
    follow(mirror, world)
    with refused(PolicyError, "checkpoint-too-old"):
        mirror.accept_checkpoint(world.note(), world.now + timedelta(seconds=61))
    mirror.close()


def test_a_checkpoint_from_the_future_or_the_past_is_refused(
    world: World, mirror: LogMirror
) -> None:  # [20]
    mirror.extend(0, world.entries, world.note())
    ahead = world.note(at=world.now + timedelta(seconds=301))
    with refused(PolicyError, "checkpoint-from-future", match="301 s"):
        mirror.accept_checkpoint(ahead, world.now)
    mirror.accept_checkpoint(world.note(), world.now)
    behind = world.note(at=world.now - timedelta(seconds=301))
    with refused(PolicyError, "checkpoint-before-last", match="301 s"):
        mirror.accept_checkpoint(behind, world.now)


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


def test_one_fast_and_one_slow_clock_of_a_witness_are_tolerated(
    world: World, mirror: LogMirror
) -> None:
    mirror.extend(0, world.entries, world.note())
    mirror.accept_checkpoint(at(world, 60, 0, 0, 0), world.now)
    mirror.accept_checkpoint(at(world, 60, -60, 0), world.now)
    mirror.accept_checkpoint(at(world, 0, -60, 60, 0), world.now)


def test_one_witness_does_not_freshen_an_old_log(
    world: World, mirror: LogMirror
) -> None:
    """The coordinator shows what all cosigned long ago, and a friend's line of now."""
    follow(mirror, world)
    later = timedelta(hours=25)
    minutes = [0, 0, 0, 25 * 60]
    with refused(PolicyError, "checkpoint-too-old"):
        mirror.accept_checkpoint(at(world, *minutes), world.now + later)
    mirror.accept_checkpoint(at(world, 0, 0, *minutes[-1:] * 2), world.now + later)


def test_a_caller_may_shorten_the_age_but_not_extend_it(
    world: World, mirror: LogMirror
) -> None:
    follow(mirror, world)
    with refused(PolicyError, "checkpoint-too-old"):
        mirror.accept_checkpoint(
            world.note(), world.now + timedelta(seconds=61), max_age=60
        )
    with refused(PolicyError, "checkpoint-too-old"):
        mirror.accept_checkpoint(
            world.note(), world.now + timedelta(hours=25), max_age=10**6
        )


def test_an_older_checkpoint_verifies_a_prefix(world: World, mirror: LogMirror) -> None:
    with refused(ProtocolError, "checkpoint-beyond-mirror"):
        mirror.verify_prefix(world.note(world.entries[:20]))
    mirror.extend(0, world.entries, world.note(witnesses=()))
    assert mirror.verify_prefix(world.note(world.entries[:20])) == 20
    assert mirror.verify_prefix(world.note()) == 30
    assert mirror.seen is None
    with refused(QuorumError, "quorum-not-reached"):
        mirror.verify_prefix(world.note(world.entries[:20], witnesses=NAMES[:2]))
    fork = other_history(world)
    with refused(InconsistentLog, "log-forked"):
        mirror.verify_prefix(world.note(fork[:20]))
    assert [item.note for item in mirror.evidence()] == [world.note(fork[:20])]


def test_a_view_that_was_tampered_with_does_not_open(
    world: World, mirror: LogMirror, tmp_path: Path
) -> None:
    follow(mirror, world)
    database = sqlite3.connect(tmp_path / "mirror.db")
    with database:
        database.execute("DELETE FROM entry WHERE idx >= 20")
    with refused(VerificationError, "mirror-damaged", match="20 .* 30"):
        reopen(world, tmp_path)
    with database:
        database.execute("DELETE FROM entry WHERE idx = 3")
    database.close()
    with refused(VerificationError, "log-entries-missing", match="entry 3"):
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
    world: World, mirror: LogMirror, tmp_path: Path, change: str
) -> None:
    follow(mirror, world)
    with sqlite3.connect(tmp_path / "mirror.db") as database:
        database.execute(change)
    database.close()
    with refused(VerificationError, "mirror-damaged"):
        reopen(world, tmp_path)


@pytest.mark.parametrize("readonly", [False, True])
def test_a_view_cut_anywhere_is_an_error_of_ours(
    world: World, mirror: LogMirror, tmp_path: Path, *, readonly: bool
) -> None:
    """SQLite reads NULL and numbers where the rest of a row was cut off."""
    follow(mirror, world)
    mirror.close()
    whole, path = (tmp_path / "mirror.db").read_bytes(), tmp_path / "cut.db"
    for end in range(1, len(whole), 997):
        path.write_bytes(whole[:end])
        with suppress(TapestryError):
            LogMirror.open(
                path, trust=world.trust, genesis=world.genesis, readonly=readonly
            ).close()


def test_an_empty_view_has_nothing_to_say(world: World, mirror: LogMirror) -> None:
    with refused(IncompleteError, "mirror-empty"):
        mirror.cosign(world.keys["fr", "witness"], world.now)
    with refused(IncompleteError, "mirror-empty"):
        _ = mirror.state


def test_without_a_genesis_a_mirror_opens_with_any_first_entry(tmp_path: Path) -> None:
    world, path = World().found(), tmp_path / "copy.db"
    mirror = LogMirror.open(path, trust=world.trust, genesis=world.genesis)
    assert mirror.signed is None
    mirror.extend(0, world.entries, world.note())
    mirror.close()
    with refused(VerificationError, "genesis-differs"):
        LogMirror.open(path, trust=world.trust, genesis=f"sha256:{'0' * 64}")
    mirror = LogMirror.open(path, trust=world.trust, genesis=None, readonly="still")
    assert mirror.signed == world.note()
    mirror.close()
