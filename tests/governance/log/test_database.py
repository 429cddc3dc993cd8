"""The log's database: one writer, all or nothing, a history that only grows."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import ConfigError, InconsistentLog, ResourceError
from tapestry_governance.log.database import LogDatabase
from tests.support.refusals import refused

KEY = "log.example/gov+0+key"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[LogDatabase]:
    database = LogDatabase(tmp_path)
    database.create(KEY)
    yield database
    database.close()


def _fill(database: LogDatabase, *leaves: bytes) -> None:
    with database.transaction():
        rows = [(leaf, b"entry " + leaf) for leaf in leaves]
        database.insert_entries(database.size(), rows)


def test_a_log_is_created_once(database: LogDatabase) -> None:
    with refused(ConfigError, "log-exists", match=r"log\.db"):
        database.create(KEY)
    database.check_key(KEY)


def test_an_empty_database_is_no_log_until_it_is_created(tmp_path: Path) -> None:
    database = LogDatabase(tmp_path)
    with refused(ConfigError, "database-kind-differs", match="version 0"):
        database.check_key(KEY)
    database.close()


def test_a_log_of_another_key_is_refused_with_both_keys(database: LogDatabase) -> None:
    with refused(ConfigError, "log-key-differs") as caught:
        database.check_key("other.example/gov+0+key")
    assert KEY in str(caught.value)
    assert "other.example/gov+0+key" in str(caught.value)


def test_entries_are_found_by_leaf_and_read_in_order(database: LogDatabase) -> None:
    assert (database.size(), database.find(b"a")) == (0, None)
    _fill(database, b"a", b"b")
    _fill(database, b"c")
    assert database.size() == 3
    assert [database.find(leaf) for leaf in (b"a", b"b", b"c", b"d")] == [0, 1, 2, None]
    rows = [(1, b"b", b"entry b"), (2, b"c", b"entry c")]
    assert list(database.rows(1, 3)) == rows


def test_a_transaction_that_fails_leaves_nothing(database: LogDatabase) -> None:
    _fill(database, b"a")
    with refused(InconsistentLog, "row-refused"), database.transaction():
        database.insert_entries(1, [(b"b", b"entry b"), (b"a", b"entry a")])

    def fail() -> None:
        with database.transaction():
            database.insert_checkpoint(1, b"note")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (database.size(), database.newest_checkpoint()) == (1, None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET bytes = x'00' WHERE idx = 0",
        "DELETE FROM entry WHERE idx = 1",
        "INSERT INTO entry VALUES (3, x'00', x'00')",
        "INSERT OR REPLACE INTO entry VALUES (1, x'00', x'00')",
        "UPDATE checkpoint SET note = x'00'",
        "DELETE FROM checkpoint",
        "INSERT INTO checkpoint VALUES (2, x'00')",
    ],
)
def test_the_database_refuses_to_rewrite_history(
    database: LogDatabase, statement: str
) -> None:
    _fill(database, b"a", b"b")
    with database.transaction():
        database.insert_checkpoint(2, b"note")
    with pytest.raises(sqlite3.IntegrityError):
        database.database.execute(statement)
    with refused(InconsistentLog, "row-refused"), database.transaction():
        database.database.execute(statement)


def test_signed_and_published_notes_are_listed_by_size(database: LogDatabase) -> None:
    with database.transaction():
        for size, note in ((0, b"zero"), (4, b"four")):
            database.insert_checkpoint(size, note)
        database.insert_publication(4, b"cosigned")
        database.insert_publication(4, b"cosigned twice")
    assert database.newest_checkpoint() == 4
    assert [database.checkpoint(size) for size in (0, 3, 4)] == [b"zero", None, b"four"]
    assert database.published_sizes() == [4]
    assert database.publication(4) == b"cosigned twice"
    assert database.publication(0) is None
    assert sorted(database.checkpoints()) == [
        (0, b"zero"),
        (4, b"cosigned twice"),
        (4, b"four"),
    ]


def test_a_publication_or_cosignature_needs_its_checkpoint(
    database: LogDatabase,
) -> None:
    with refused(InconsistentLog, "row-refused"), database.transaction():
        database.insert_publication(1, b"cosigned")
    with refused(InconsistentLog, "row-refused"), database.transaction():
        database.insert_cosignature(1, "key", time=1, line=b"line")


def test_the_newer_cosignature_of_a_key_is_kept(database: LogDatabase) -> None:
    with database.transaction():
        database.insert_checkpoint(1, b"note")
        for key, time in (("b", 5), ("a", 7), ("a", 3), ("b", 6), ("b", 6)):
            line = f"{key} at {time}".encode()
            database.insert_cosignature(1, key, time=time, line=line)
    assert database.cosignatures(1) == [b"a at 7", b"b at 6"]
    assert sorted(database.cosigners(1)) == ["a", "b"]
    assert database.cosignatures(2) == []


def test_a_second_writer_is_refused_until_the_first_closes(
    database: LogDatabase, tmp_path: Path
) -> None:
    with refused(ResourceError, "folder-in-use", match=str(tmp_path / "lock")):
        LogDatabase(tmp_path)
    database.close()
    LogDatabase(tmp_path).close()


def test_a_database_that_does_not_open_keeps_no_lock(tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()
    with refused(ResourceError, "database-unavailable", match=r"log\.db"):
        LogDatabase(tmp_path)
    (tmp_path / "log.db").rmdir()
    LogDatabase(tmp_path).close()


def test_a_reader_sees_one_snapshot_while_a_writer_goes_on(
    database: LogDatabase, tmp_path: Path
) -> None:
    _fill(database, b"a")
    reader = LogDatabase(tmp_path, readonly=True)
    assert reader.size() == 1
    _fill(database, b"b")
    assert (reader.size(), database.size()) == (1, 2)
    with refused(ResourceError, "database-unavailable"), reader.database.errors():
        reader.insert_entries(1, [(b"c", b"entry c")])
    reader.close()


def test_a_damaged_index_is_found_by_the_check(
    database: LogDatabase, tmp_path: Path
) -> None:
    """With it an entry could be appended twice."""
    _fill(database, *(b"%03d" % number for number in range(300)))
    query = "SELECT rootpage FROM sqlite_master WHERE name LIKE ?"
    row = database.database.execute(query, ("sqlite_autoindex_entry_%",)).fetchone()
    (size,) = database.database.execute("PRAGMA page_size").fetchone()
    database.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "log.db", copy / "log.db")
    data = bytearray((copy / "log.db").read_bytes())
    data[row[0] * size - 10] ^= 1  # cells are at the end of a page
    (copy / "log.db").write_bytes(data)
    damaged = LogDatabase(copy)
    with refused(InconsistentLog, "database-damaged"):
        damaged.check_key(KEY)
    damaged.close()


def test_a_log_has_its_tables_and_no_others(database: LogDatabase) -> None:
    database.require_tables()
    with database.transaction():
        database.insert_former(["former"], 0)
    database.require_tables()
    database.database.execute("DROP TRIGGER entries_keep")
    with refused(InconsistentLog, "database-kind-differs", match=r"log\.db"):
        database.require_tables()


def test_keys_of_adopted_entries_are_kept_and_a_log_without_has_none(
    database: LogDatabase,
) -> None:
    assert database.former() == {}
    with database.transaction():
        database.insert_former(["log.example/gov+1+old", KEY], 7)
    assert database.former() == {"log.example/gov+1+old": 7, KEY: 7}
