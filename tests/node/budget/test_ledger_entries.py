"""Entries of a ledger in a hash chain, and the mirror that a backup does not reach."""

import os
import shutil
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tapestry.encoding import canonical_json, decode_json, digest
from tapestry.errors import ConfigError, VerificationError
from tapestry_node.budget.ledger import Ledger
from tapestry_node.budget.ledger_entries import HeadFile
from tests.node.budget.test_ledger import TERMS, charge, shared
from tests.support.refusals import refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budget.db"


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
    HeadFile(path.with_name("budget.db.mirror")).record(number, digest(body))


def test_a_charge_is_named_by_purpose_run_and_number() -> None:
    first = charge(1)
    assert first.key == ("round", "run-1", 1)
    assert first.title == "round 1 of 'run-1'"
    assert charge(1, steps=99).key == first.key
    others = [charge(2), charge(1, run="b"), replace(first, purpose="adapter")]
    assert first.key not in {each.key for each in others}


def test_the_fallback_of_a_charge_is_by_the_nodes_own_noise_alone() -> None:
    assert charge(1).fallback == charge(1).steps
    found = shared(1, own=0.25)
    assert found.fallback == replace(found.steps, noise_multiplier=0.25)


def test_every_field_of_a_charge_is_read_back_as_it_was_written(path: Path) -> None:
    charges = [charge(1), shared(2), replace(charge(3), purpose="evaluation")]
    ledger = Ledger.open(path, TERMS)
    for each in charges:
        ledger.reserve(each)
    assert [row.charge for row in Ledger.open(path, TERMS).rows()] == charges


def test_each_entry_names_the_digest_of_the_one_before(path: Path) -> None:
    ledger = Ledger.open(path, TERMS)
    ledger.reserve(charge(1))
    ledger.release(charge(1))
    entries = stored(path)
    said = [decode_json(each)["previous"] for each in entries]
    assert said == ["", *map(digest, entries[:-1])]
    kinds = [decode_json(each)["type"] for each in entries]
    assert kinds == ["open", "limit", "reserve", "release"]
    mirror = HeadFile(path.with_name("budget.db.mirror"))
    assert mirror.latest() == (len(entries), digest(entries[-1]))


def test_a_chain_computed_anew_contradicts_its_mirror(path: Path) -> None:
    Ledger.open(path, TERMS)
    last = decode_json(stored(path)[-1])
    body = canonical_json({**last, "epsilon": "1000"})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET body = ? WHERE number = 2", (body,))
    connection.close()
    said = "contradicts its mirror at 2"
    with refused(VerificationError, "ledger-head-differs", match=said):
        Ledger.open(path, TERMS)


def test_an_entry_of_an_unknown_type_is_refused(path: Path) -> None:
    Ledger.open(path, TERMS)
    append(path, type="refund", time="2026-01-01T00:00:00+00:00")
    said = "entry 3 is of an unknown type"
    with refused(VerificationError, "ledger-changed", match=said):
        Ledger.open(path, TERMS)


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


def test_a_restored_database_is_refused(path: Path) -> None:
    ledger = Ledger.open(path, TERMS)
    ledger.reserve(charge(1))
    backup = path.with_suffix(".backup")
    with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    source.close()
    target.close()
    ledger.spend(charge(1))
    for extra in path.parent.glob("budget.db-*"):
        extra.unlink()
    shutil.copy(backup, path)
    with refused(VerificationError, "ledger-restored", match="its mirror saw"):
        Ledger.open(path, TERMS)
    with refused(VerificationError, "ledger-restored", match="its mirror saw"):
        ledger.reserve(charge(2))


def test_a_deleted_database_or_mirror_is_refused(path: Path) -> None:
    ledger = Ledger.open(path, TERMS)
    ledger.reserve(charge(1))
    mirror = path.with_name("budget.db.mirror")
    kept = mirror.read_bytes()
    mirror.unlink()
    with refused(VerificationError, "ledger-head-missing"):
        Ledger.open(path, TERMS)
    mirror.write_bytes(kept)
    for file in path.parent.glob("budget.db*"):
        if file != mirror:
            file.unlink()
    with refused(VerificationError, "ledger-restored", match="its mirror saw"):
        Ledger.open(path, TERMS)


def test_an_entry_changed_in_place_is_refused(path: Path) -> None:
    ledger = Ledger.open(path, TERMS)
    ledger.reserve(charge(1))
    ledger.spend(charge(1))
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE entries SET body = CAST(replace(CAST(body AS TEXT), '\"steps\":10',"
            " '\"steps\":1') AS BLOB) WHERE number = 3"
        )
    connection.close()
    with refused(VerificationError, "ledger-changed", match="entry 4 does not follow"):
        Ledger.open(path, TERMS)


@pytest.mark.parametrize("field", ["time", "type", "previous", "canary"])
def test_a_foreign_entry_is_refused_without_quoting_it(path: Path, field: str) -> None:
    Ledger.open(path, TERMS)
    entry = {"previous": "", "time": "2026-01-01T00:00:00+00:00", "type": "open"}
    body = canonical_json(entry | {field: "canary"})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET body = ? WHERE number = 1", (body,))
    connection.close()
    with refused(VerificationError, "ledger-changed") as caught:
        Ledger.open(path, TERMS)
    assert "canary" not in str(caught.value)


def test_a_mirror_too_large_to_be_one_is_not_read(path: Path) -> None:
    Ledger.open(path, TERMS).reserve(charge(1))
    os.truncate(path.with_name("budget.db.mirror"), 1 << 40)
    with refused(
        VerificationError, "file-too-large", match=r"budget\.db\.mirror is over"
    ):
        Ledger.open(path, TERMS)


def test_a_crash_between_database_and_mirror_is_repaired(path: Path) -> None:
    class Crashing(HeadFile):
        def record(self, number: int, digest: str) -> None:
            raise KeyboardInterrupt((number, digest))

    mirror = path.with_name("mirror")
    Ledger.open(path, TERMS, mirror=HeadFile(mirror)).reserve(charge(1))
    ledger = Ledger.open(path, TERMS, mirror=Crashing(mirror))
    with pytest.raises(KeyboardInterrupt):
        ledger.spend(charge(1))
    after = Ledger.open(path, TERMS, mirror=HeadFile(mirror))
    assert [row.state for row in after.rows()] == ["spent"]
    after.reserve(charge(2))
    assert len(Ledger.open(path, TERMS, mirror=HeadFile(mirror)).rows()) == 2


def test_a_mirror_line_cut_by_a_crash_does_not_count(path: Path) -> None:
    mirror = HeadFile(path)
    mirror.record(1, digest(b"1"))
    path.write_bytes(path.read_bytes() + b"2 sha2")
    assert mirror.latest() == (1, digest(b"1"))
    mirror.record(2, digest(b"2"))
    assert mirror.latest() == (2, digest(b"2"))


def test_a_clock_set_back_is_refused(path: Path) -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    Ledger.open(path, TERMS, clock=lambda: now)
    Ledger.open(path, TERMS, clock=lambda: now - timedelta(minutes=1))
    with refused(ConfigError, "clock-before-ledger"):
        Ledger.open(path, TERMS, clock=lambda: now - timedelta(hours=1))
