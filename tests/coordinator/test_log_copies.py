"""Copies of the log by members are verified before a log comes back from them."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tapestry.cli.exit_status import ExitStatus, status_of
from tapestry.errors import (
    IncompleteError,
    InconsistentLog,
    QuorumError,
    TapestryError,
    VerificationError,
)
from tapestry.tlog.note import MAX_BYTES
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator.log_copies import check_reaches, newest_of, read_copy
from tapestry_governance.log.mirror import LogMirror
from tests.support.audit_bundles import bundle_of
from tests.support.log_world import NAMES, World
from tests.support.proposals import new_coordinator, new_key
from tests.support.refusals import refused


def mirror_of(world: World, path: Path, *, accepted: int | None = None) -> Path:
    """Write the mirror of a member that accepted a checkpoint of some entries."""
    mirror = LogMirror.open(path, trust=world.trust, genesis=world.genesis)
    count = len(world.entries) if accepted is None else accepted
    first = world.entries[:count]
    mirror.extend(0, first, world.note(first))
    mirror.accept_checkpoint(world.note(first), world.now)
    if accepted is not None:
        mirror.extend(count, world.entries[count:], world.note(witnesses=()))
    mirror.close()
    return path


def change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(statement, values).rowcount


@pytest.fixture
def world() -> World:
    return World().found()


def test_a_mirror_and_a_bundle_give_the_same_log(world: World, tmp_path: Path) -> None:
    mirrored = read_copy(mirror_of(world, tmp_path / "view.db"), world.trust)
    bundle_of(world, tmp_path)
    bundled = read_copy(tmp_path / "bundle", world.trust)
    for copy in (mirrored, bundled):
        assert list(copy.entries) == world.entries
        assert copy.notes == (world.note(),)
        assert copy.cosigned == copy.state.size == len(world.entries)


def test_what_a_mirror_has_beyond_its_checkpoint_is_part_of_the_log(
    world: World, tmp_path: Path
) -> None:
    longer = mirror_of(world, tmp_path / "longer.db", accepted=7)
    copy = read_copy(longer, world.trust)
    assert (len(copy.entries), copy.cosigned) == (len(world.entries), 7)
    bundle_of(world, tmp_path)
    both = [copy, read_copy(tmp_path / "bundle", world.trust)]
    assert newest_of(both).cosigned == len(world.entries)
    assert newest_of(both[::-1]).entries == copy.entries


def test_entries_that_the_log_did_not_sign_are_no_part_of_it(
    world: World, tmp_path: Path
) -> None:
    path, trust = mirror_of(world, tmp_path / "view.db", accepted=7), world.trust
    world.log_key = new_key(world.log_key.name)
    change(path, "UPDATE signed SET note = ? WHERE size > 7", world.note(witnesses=()))
    with refused(VerificationError, "signature-missing"):
        read_copy(path, trust)
    change(path, "DELETE FROM signed WHERE size > 7")
    with refused(InconsistentLog, "mirror-damaged"):
        read_copy(path, trust)


def test_a_checkpoint_needs_the_quorum_of_the_policy_that_is_given(
    world: World, tmp_path: Path
) -> None:
    path = mirror_of(world, tmp_path / "view.db")
    change(path, "UPDATE accepted SET note = ?", world.note(witnesses=NAMES[:2]))
    with refused(QuorumError, "quorum-not-reached"):
        read_copy(path, world.trust)
    change(path, "DELETE FROM accepted")
    with refused(IncompleteError, "checkpoint-missing"):
        read_copy(path, world.trust)
    bundle_of(world, tmp_path)
    strangers = World(names=("aa", "bb", "cc", "dd")).trust
    with pytest.raises(TapestryError):
        read_copy(tmp_path / "bundle", strangers)


def test_a_changed_entry_or_checkpoint_is_noticed(world: World, tmp_path: Path) -> None:
    path = mirror_of(world, tmp_path / "view.db")
    change(path, "UPDATE entry SET bytes = ? WHERE idx = 8", world.entries[7])
    with pytest.raises(TapestryError):
        read_copy(path, world.trust)
    other = World().adopt()
    for name in NAMES[::-1]:
        other.add(other.declaration(name), name, "node")
    bundle_of(world, tmp_path)
    path = mirror_of(other, tmp_path / "other.db")
    copies = [read_copy(path, world.trust), read_copy(tmp_path / "bundle", world.trust)]
    with refused(InconsistentLog, "log-forked", match="both signed"):
        newest_of(copies)
    with refused(InconsistentLog, "log-forked"):
        check_reaches(copies[0], world.note(), trust=world.trust)


@pytest.fixture
def turned(world: World, tmp_path: Path) -> tuple[Path, TrustPolicy]:
    """A mirror that went over a turn, and the policy of the founding."""
    before, trust, path = world.note(), world.trust, tmp_path / "view.db"
    world.decide(new_coordinator(world))
    world.log_key = new_key(world.log_key.name)
    turn = world.note()
    world.add(world.declaration("fr"), "fr", "node")
    mirror = LogMirror.open(path, trust=trust, genesis=world.genesis)
    mirror.extend(0, world.entries, world.note(), cosigned=[before, turn])
    mirror.accept_checkpoint(world.note(), world.now)
    assert mirror.turns() == [turn]
    mirror.close()
    return path, trust


REMAKE = """
ALTER TABLE accepted RENAME TO other;
CREATE TABLE accepted (size, note);
INSERT INTO accepted SELECT size, note FROM other;
"""
OTHER_ENTRIES = """
ALTER TABLE entry RENAME TO other;
CREATE TABLE entry (idx, leaf, bytes);
INSERT INTO entry SELECT * FROM other;
UPDATE entry SET bytes = 10000000000000 WHERE idx = 3;
"""
VIEW = """
ALTER TABLE entry RENAME TO other;
CREATE VIEW entry AS SELECT * FROM other
"""
# It ends, lest the test of a program that reads it does not.
LONG_VIEW = """
ALTER TABLE entry RENAME TO other;
CREATE VIEW entry AS SELECT * FROM other UNION ALL SELECT * FROM (
    WITH RECURSIVE c (x) AS (SELECT 99 UNION ALL SELECT x + 1 FROM c WHERE x < 999)
    SELECT x, x'00', zeroblob(1000) FROM c
)"""
SET_NOTE = """
UPDATE accepted SET note = {}
WHERE size = (SELECT size FROM accepted ORDER BY size DESC LIMIT 1 OFFSET 1)
"""
SIZE_OF_TEXT = "INSERT INTO accepted VALUES ('x', x'00')"


@pytest.mark.parametrize(
    "change",
    [
        REMAKE + SET_NOTE.format("10000000000000"),
        REMAKE + SET_NOTE.format("'text'"),
        REMAKE + SET_NOTE.format("NULL"),
        REMAKE + SIZE_OF_TEXT,
        OTHER_ENTRIES,
        VIEW,
        LONG_VIEW,
        "CREATE TRIGGER later AFTER INSERT ON entry BEGIN DELETE FROM accepted; END",
        "DROP INDEX entry_leaf",
    ],
)
def test_a_file_with_other_tables_than_a_mirror_is_not_read(
    turned: tuple[Path, TrustPolicy], change: str
) -> None:
    path, trust = turned
    with closing(sqlite3.connect(path)) as database:
        database.executescript(change)
    said = r"view\.db: its tables are not those"
    with refused(VerificationError, "database-kind-differs", match=said) as caught:
        read_copy(path, trust)
    assert status_of(caught.value) is ExitStatus.FAILED


def test_a_value_of_another_type_or_over_the_length_is_damage(
    turned: tuple[Path, TrustPolicy],
) -> None:
    path, trust = turned
    notes = read_copy(path, trust).notes
    change(path, SET_NOTE.format("NULL"))
    with refused(VerificationError, "mirror-damaged", match=r"view\.db is"):
        read_copy(path, trust)
    change(path, SET_NOTE.format("?"), bytes(MAX_BYTES + 1))
    with refused(VerificationError, "database-damaged", match=r"view\.db: "):
        read_copy(path, trust)
    change(path, SET_NOTE.format("?"), notes[0])
    assert read_copy(path, trust).notes == notes
    change(path, "UPDATE entry SET bytes = zeroblob(?) WHERE idx = 8", MAX_BYTES + 1)
    with refused(VerificationError, "database-damaged", match=r"view\.db: "):
        read_copy(path, trust)


def test_a_copy_must_lead_to_a_checkpoint_that_was_kept(
    world: World, tmp_path: Path
) -> None:
    behind = read_copy(mirror_of(world, tmp_path / "behind.db"), world.trust)
    check_reaches(behind, world.note(), trust=world.trust)
    check_reaches(behind, world.note(world.entries[:7]), trust=world.trust)
    world.add(world.declaration("fr"), "fr", "node")
    with refused(IncompleteError, "mirror-behind"):
        check_reaches(behind, world.note(), trust=world.trust)
    world.entries.pop()
    trust = world.trust
    world.log_key = new_key(world.log_key.name)
    with refused(VerificationError, "log-signature-missing"):
        check_reaches(behind, world.note(), trust=trust)


def test_a_log_that_changed_its_coordinator_is_followed_over_the_turn(
    world: World, tmp_path: Path
) -> None:
    before, trust = world.note(), world.trust
    world.decide(new_coordinator(world))
    world.log_key = new_key(world.log_key.name)
    path = tmp_path / "view.db"
    mirror = LogMirror.open(path, trust=trust, genesis=world.genesis)
    mirror.extend(0, world.entries, world.note(), cosigned=[before])
    mirror.close()
    turn = world.note()
    bundle_of(world, tmp_path, note=turn, turns=[turn])
    assert read_copy(path, trust).notes == (before,)
    copy = read_copy(tmp_path / "bundle", trust)
    assert copy.state.lead.log == str(world.log_key.verify_key)
    assert copy.notes == (turn,)
    few = tmp_path / "few"
    few.mkdir()
    note = world.note(witnesses=NAMES[:2])
    bundle_of(world, few, note=note, turns=[note])
    with refused(QuorumError, "quorum-not-reached"):
        read_copy(few / "bundle", trust)
