"""Entries of a node in a hash chain, and the mirror that a backup does not reach."""

import os
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tapestry.encoding import canonical_json, decode_json, digest
from tapestry.errors import ConfigError, VerificationError
from tapestry_node.budget.ledger import Ledger
from tapestry_node.node_state import NodeState
from tapestry_node.state_entries import HeadFile
from tests.node.budget.test_ledger import TERMS, charge, open_ledger
from tests.support.refusals import refused
from tests.support.unsigned_accounts import unsigned


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


def stored(path: Path) -> list[bytes]:
    """Return the entries of a ledger as they are on the disk."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT body FROM entries ORDER BY number").fetchall()
    connection.close()
    return [bytes(body) for (body,) in rows]


def append(path: Path, **fields: object) -> None:
    """Append an entry that fits the chain, and tell the mirror."""
    body = canonical_json({"previous": digest(stored(path)[-1]), **fields})
    number = len(stored(path)) + 1
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO entries VALUES (?, ?)", (number, body))
    connection.close()
    HeadFile(path.with_name("node.db.mirror")).record(number, digest(body))


def test_each_entry_names_the_digest_of_the_one_before(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    ledger.reserve(charge(1))
    ledger.release(charge(1))
    entries = stored(path)
    said = [decode_json(each)["previous"] for each in entries]
    assert said == ["", *map(digest, entries[:-1])]
    kinds = [decode_json(each)["type"] for each in entries]
    assert kinds == ["open", "limit", "reserve", "release"]
    mirror = HeadFile(path.with_name("node.db.mirror"))
    assert mirror.latest() == (len(entries), digest(entries[-1]))


def test_a_chain_computed_anew_contradicts_its_mirror(path: Path) -> None:
    open_ledger(path, TERMS)
    last = decode_json(stored(path)[-1])
    body = canonical_json({**last, "epsilon": "1000"})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET body = ? WHERE number = 2", (body,))
    connection.close()
    said = "contradicts its mirror at 2"
    with refused(VerificationError, "state-head-differs", match=said):
        open_ledger(path, TERMS)


def test_an_entry_of_an_unknown_type_is_refused(path: Path) -> None:
    open_ledger(path, TERMS)
    append(path, type="refund", time="2026-01-01T00:00:00+00:00")
    said = "entry 3 is of an unknown type"
    with refused(VerificationError, "state-changed", match=said):
        open_ledger(path, TERMS)


def test_the_mirror_of_a_ledger_that_is_new_is_empty(path: Path) -> None:
    mirror = HeadFile(path)
    assert mirror.latest() is None
    path.write_bytes(b"")
    assert mirror.latest() is None
    path.write_bytes(b"01 sha256:" + b"0" * 64 + b"\n")  # no number
    assert mirror.latest() is None


def test_the_highest_line_of_a_mirror_counts(path: Path) -> None:
    mirror = HeadFile(path)
    for number in (1, 3, 2):
        mirror.record(number, digest(b"%d" % number))
    assert mirror.latest() == (3, digest(b"3"))


def test_a_mirror_starts_anew_before_it_fills_a_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = path.with_name("other-disk")
    path.symlink_to(other)
    monkeypatch.setattr("tapestry_node.state_entries._MAX_MIRROR", 500)
    mirror = HeadFile(path)
    for number in range(1, 100):
        mirror.record(number, digest(b"%d" % number))
        assert mirror.latest() == (number, digest(b"%d" % number))
        assert other.stat().st_size < 600
    assert path.is_symlink()


def test_a_restored_database_is_refused(path: Path) -> None:
    state = NodeState(path)
    ledger = Ledger.open(state, TERMS)
    ledger.reserve(charge(1))
    backup = path.with_suffix(".backup")
    with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    source.close()
    target.close()
    ledger.spend(charge(1), unsigned)
    state.close()
    shutil.copy(backup, path)
    with refused(VerificationError, "state-restored", match="its mirror saw"):
        open_ledger(path, TERMS)


def test_a_deleted_database_or_mirror_is_refused(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    ledger.reserve(charge(1))
    ledger.spend(charge(1), unsigned)
    mirror = path.with_name("node.db.mirror")
    kept = mirror.read_bytes()
    mirror.unlink()
    with refused(VerificationError, "state-head-missing"):
        open_ledger(path, TERMS)
    mirror.write_bytes(kept)
    for file in path.parent.glob("node.db*"):
        if file != mirror:
            file.unlink()
    with refused(VerificationError, "state-restored", match="its mirror saw"):
        open_ledger(path, TERMS)


def test_an_entry_changed_in_place_is_refused(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    ledger.reserve(charge(1))
    ledger.spend(charge(1), unsigned)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE entries SET body = CAST(replace(CAST(body AS TEXT), '\"steps\":10',"
            " '\"steps\":1') AS BLOB) WHERE number = 3"
        )
    connection.close()
    with refused(VerificationError, "state-changed", match="entry 4 does not follow"):
        open_ledger(path, TERMS)


@pytest.mark.parametrize("field", ["time", "type", "previous", "canary"])
def test_a_foreign_entry_is_refused_without_quoting_it(path: Path, field: str) -> None:
    open_ledger(path, TERMS)
    entry = {"previous": "", "time": "2026-01-01T00:00:00+00:00", "type": "open"}
    body = canonical_json(entry | {field: "canary"})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET body = ? WHERE number = 1", (body,))
    connection.close()
    with refused(VerificationError, "state-changed") as caught:
        open_ledger(path, TERMS)
    assert "canary" not in str(caught.value)


def test_a_mirror_too_large_to_be_one_is_not_read(path: Path) -> None:
    open_ledger(path, TERMS).reserve(charge(1))
    os.truncate(path.with_name("node.db.mirror"), 1 << 40)
    with refused(
        VerificationError, "file-too-large", match=r"node\.db\.mirror is over"
    ):
        open_ledger(path, TERMS)


def test_a_crash_between_database_and_mirror_is_repaired(path: Path) -> None:
    class Crashing(HeadFile):
        def record(self, number: int, digest: str) -> None:
            raise KeyboardInterrupt((number, digest))

    mirror = path.with_name("mirror")
    open_ledger(path, TERMS, mirror=HeadFile(mirror)).reserve(charge(1))
    ledger = open_ledger(path, TERMS, mirror=Crashing(mirror))
    with pytest.raises(KeyboardInterrupt):
        ledger.spend(charge(1), unsigned)
    after = open_ledger(path, TERMS, mirror=HeadFile(mirror))
    assert [row.state for row in after.rows()] == ["spent"]
    after.reserve(charge(2))
    assert len(open_ledger(path, TERMS, mirror=HeadFile(mirror)).rows()) == 2


def test_a_mirror_line_cut_by_a_crash_does_not_count(path: Path) -> None:
    mirror = HeadFile(path)
    mirror.record(1, digest(b"1"))
    path.write_bytes(path.read_bytes() + b"2 sha2")
    assert mirror.latest() == (1, digest(b"1"))
    mirror.record(2, digest(b"2"))
    assert mirror.latest() == (2, digest(b"2"))


def test_a_clock_set_back_is_refused(path: Path) -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    open_ledger(path, TERMS, clock=lambda: now)
    open_ledger(path, TERMS, clock=lambda: now - timedelta(minutes=1))
    with refused(ConfigError, "clock-before-state"):
        open_ledger(path, TERMS, clock=lambda: now - timedelta(hours=1))
