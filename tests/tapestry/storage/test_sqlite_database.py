"""Databases: durable, private, of one kind, whole after a crash, and said plainly."""

import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tapestry.errors import InconsistentLog, ResourceError, VerificationError
from tapestry.storage.sqlite_database import (
    Database,
    Schema,
    copy_database,
    open_database,
)
from tests.support.file_limits import file_limit
from tests.support.refusals import refused

SCHEMA = Schema(
    application="TpTs",
    version=2,
    tables="""
CREATE TABLE number (value INTEGER NOT NULL CHECK (value < 100)) STRICT;
CREATE TABLE child (value INTEGER REFERENCES parent) STRICT;
CREATE TABLE parent (id INTEGER PRIMARY KEY) STRICT;
CREATE TRIGGER numbers_stay BEFORE DELETE ON number
BEGIN SELECT raise(ABORT, 'a number stays; always'); END;
""",
)
_WRITE_SCHEMA = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET"
_RACE = """
import pathlib, sys
from contextlib import closing
from tapestry.storage.sqlite_database import Schema, open_database
schema = Schema(application="TpTs", version=2, tables=sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    path = pathlib.Path(sys.argv[1]) / f"{number}.db"
    with closing(open_database(path, schema)) as database, database.transaction():
        database.execute("INSERT INTO number VALUES (1)")
"""
_HOT_JOURNAL = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = DELETE")
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
database.executemany("INSERT INTO number VALUES (?)", ((7,) for _ in range(10000)))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(open_database(path, SCHEMA)) as opened:
        yield opened


def numbers(path: Path) -> list[int]:
    with closing(open_database(path, SCHEMA, readonly=True)) as database:
        return [value for (value,) in database.query("SELECT value FROM number")]


def digests(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.iterdir() if path.is_file())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def test_a_commit_waits_for_the_disk_and_keys_are_enforced(database: Database) -> None:
    settings = ("journal_mode", "synchronous", "foreign_keys")
    found = [database.query(f"PRAGMA {name}") for name in settings]
    assert found == [[("wal",)], [(2,)], [(1,)]]  # 2: FULL
    with refused(ResourceError, "row-refused", match="FOREIGN KEY"):
        database.query("INSERT INTO child VALUES (7)")


def test_a_database_and_the_files_beside_it_are_private(path: Path) -> None:
    before = os.umask(0)
    try:
        database = open_database(path, SCHEMA)
        database.query("INSERT INTO number VALUES (1)")
        names = {each.name for each in path.parent.iterdir()}
        assert names == {"some.db", "some.db-wal", "some.db-shm"}
        modes = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        assert modes == {0o600}
        database.close()
    finally:
        os.umask(before)


def test_the_mode_of_a_database_that_is_there_stays(path: Path) -> None:
    open_database(path, SCHEMA).close()
    path.chmod(0o640)
    open_database(path, SCHEMA).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_leads_to_the_database(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to("elsewhere/real.db")
    for _ in range(2):
        with closing(open_database(path, SCHEMA)) as database:
            database.query("INSERT INTO number VALUES (1)")
    assert path.is_symlink()
    real = tmp_path / "elsewhere" / "real.db"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert numbers(real) == [1, 1]


# Kind, version, damage


OTHERS = {
    "kind": Schema(application="TpTt", version=2, tables="CREATE TABLE x (y TEXT);"),
    "version": Schema(application="TpTs", version=1, tables="CREATE TABLE x (y TEXT);"),
}


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("other", OTHERS)
def test_a_database_of_another_kind_or_version_is_refused_and_stays(
    path: Path, other: str, *, readonly: bool
) -> None:
    with closing(open_database(path, OTHERS[other])) as database:
        database.query("INSERT INTO x VALUES ('kept')")
    before = digests(path.parent)
    said = r"\S+some\.db: .* 0x5470547[34], version [12], and"
    with refused(ResourceError, "database-kind-differs", match=said):
        open_database(path, SCHEMA, readonly=readonly)
    assert {k: v for k, v in digests(path.parent).items() if k in before} == before


def test_a_database_without_marks_is_not_taken_for_a_new_one(path: Path) -> None:
    with closing(sqlite3.connect(path)) as foreign, foreign:
        foreign.execute("CREATE TABLE number (value INTEGER)")
    with refused(ResourceError, "database-kind-differs", match="0x0, version 0"):
        open_database(path, SCHEMA)


def test_a_table_that_was_dropped_is_not_made_anew(path: Path) -> None:
    """An empty table would say that nothing was ever stored."""
    open_database(path, SCHEMA).close()
    with closing(sqlite3.connect(path)) as foreign, foreign:
        foreign.execute("DROP TABLE number")
    with (
        closing(open_database(path, SCHEMA)) as database,
        refused(ResourceError, "database-unavailable", match="no such table: number"),
    ):
        database.query("SELECT * FROM number")


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE number",
        "CREATE TABLE more (value INTEGER) STRICT",
        "CREATE INDEX more ON child (value)",
        "CREATE VIEW more AS SELECT 1",
        "CREATE VIRTUAL TABLE more USING fts5(text)",
        "CREATE TRIGGER more AFTER INSERT ON child BEGIN DELETE FROM parent; END",
        "DROP TABLE child; CREATE TABLE child (value INTEGER REFERENCES parent)",
        "DROP TABLE parent; CREATE VIEW parent AS SELECT value AS id FROM number",
        f"{_WRITE_SCHEMA} sql = replace(sql, ' STRICT', '') WHERE name = 'parent'",
        f"{_WRITE_SCHEMA} sql = sql || x'202f2aff2a2f' WHERE name = 'parent'",
    ],
)
def test_a_copy_from_elsewhere_has_exactly_the_tables(path: Path, change: str) -> None:
    open_database(path, SCHEMA).close()
    open_database(path, SCHEMA, readonly="still").close()
    with closing(sqlite3.connect(path)) as foreign:
        foreign.executescript(change)
    said = r"some\.db: its tables are not those"
    with refused(VerificationError, "database-kind-differs", match=said):
        open_database(path, SCHEMA, readonly="still")


def test_a_copy_from_elsewhere_is_checked_in_any_case(path: Path) -> None:
    with closing(open_database(path, SCHEMA)) as database:
        database.execute("INSERT INTO parent VALUES (1)")
        change = "rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'child')"
        database.executescript(f"{_WRITE_SCHEMA} {change} WHERE name = 'parent'")
    with refused(VerificationError, "database-damaged", match=r"some\.db: it is dam"):
        open_database(path, SCHEMA, readonly="still", check=False)


@pytest.mark.parametrize("damage", [ResourceError, InconsistentLog])
@pytest.mark.parametrize("readonly", [False, True])
def test_damage_is_of_the_class_that_the_caller_names(
    path: Path, damage: type[ResourceError | InconsistentLog], *, readonly: bool
) -> None:
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with refused(damage, "database-damaged", match=r"\S+db: file is not a database$"):
        open_database(path, SCHEMA, readonly=readonly, damage=damage)


def test_a_refused_row_is_of_the_class_that_the_caller_names(path: Path) -> None:
    with closing(open_database(path, SCHEMA, damage=InconsistentLog)) as database:
        with refused(
            InconsistentLog,
            "row-refused",
            match=r"\S+: CHECK",
        ):
            database.query("INSERT INTO number VALUES (100)")
        database.query("INSERT INTO number VALUES (1)")
        with refused(InconsistentLog, "row-refused", match="a number stays; always"):
            database.query("DELETE FROM number")
        with refused(
            ResourceError,
            "database-unavailable",
            match="no such table",
        ):
            database.query("SELECT * FROM elsewhere")


def test_text_that_is_not_utf8_is_damage(path: Path) -> None:
    with closing(open_database(path, SCHEMA, damage=InconsistentLog)) as database:
        damaged = refused(
            InconsistentLog, "database-damaged", match=r"cannot use \S+db"
        )
        with damaged, database.errors():
            b"\xff".decode()
        failed = refused(ResourceError, "database-unavailable", match="Input/output")
        with failed, database.errors():
            raise OSError(5, "Input/output error")


# Reading alone


def test_a_reader_makes_and_changes_nothing(path: Path) -> None:
    with refused(ResourceError, "database-unavailable", match="unable to open"):
        open_database(path, SCHEMA, readonly=True)
    path.write_bytes(b"")
    with refused(ResourceError, "database-unavailable"):
        open_database(path, SCHEMA, readonly=True)
    assert path.read_bytes() == b""
    open_database(path, SCHEMA).close()
    with (
        closing(open_database(path, SCHEMA, readonly=True)) as reader,
        refused(ResourceError, "database-unavailable"),
    ):
        reader.query("INSERT INTO number VALUES (1)")
    assert numbers(path) == []


def test_a_reader_does_not_wait_for_a_writer_or_keep_it_waiting(
    database: Database, path: Path
) -> None:
    with closing(open_database(path, SCHEMA, readonly=True)) as reader:
        with database.transaction():
            database.execute("INSERT INTO number VALUES (1)")
            assert reader.query("SELECT * FROM number") == []
        assert reader.query("SELECT * FROM number") == []  # as at its opening
        with closing(open_database(path, SCHEMA, readonly=True)) as later:
            assert later.query("SELECT * FROM number") == [(1,)]


def test_what_another_mode_left_unfinished_is_finished_by_a_writer(path: Path) -> None:
    with closing(open_database(path, SCHEMA)) as database:
        database.query("INSERT INTO number VALUES (1)")
    command = [sys.executable, "-c", _HOT_JOURNAL, str(path)]
    assert subprocess.run(command, check=False).returncode < 0
    assert path.with_name("some.db-journal").stat().st_size > 0
    with refused(ResourceError, "database-unavailable"):
        open_database(path, SCHEMA, readonly=True)
    open_database(path, SCHEMA).close()
    assert numbers(path) == [1]


# Transactions


def test_a_block_that_fails_writes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.transaction():
            database.execute("INSERT INTO number VALUES (1)")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not database.in_transaction
    with database.transaction():
        database.execute("INSERT INTO number VALUES (2)")
    assert database.query("SELECT value FROM number") == [(2,)]


def test_a_script_stays_in_its_transaction(database: Database) -> None:
    script = "INSERT INTO number VALUES (1);\nINSERT INTO\nnumber VALUES (2);\n"

    def fail() -> None:
        with database.transaction():
            database.execute_script(script)
            assert database.query("SELECT count(*) FROM number") == [(2,)]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert database.query("SELECT count(*) FROM number") == [(0,)]


FULL: dict[str, Callable[[Database], object]] = {
    "a full database": lambda database: database.query("PRAGMA max_page_count = 1"),
    "a full disk": lambda _: None,
}


@pytest.mark.parametrize("full", FULL)
def test_a_full_disk_commits_nothing_and_the_next_transaction_works(
    database: Database, path: Path, full: str
) -> None:
    database.query("INSERT INTO number VALUES (1)")
    FULL[full](database)
    size = path.with_name("some.db-wal").stat().st_size if "disk" in full else 1 << 30

    def write() -> None:
        with database.transaction():
            rows = ((number % 100,) for number in range(50_000))
            database.executemany("INSERT INTO number VALUES (?)", rows)

    with (
        file_limit(size),
        refused(ResourceError, "database-unavailable", match="db: "),
    ):
        write()
    database.execute("PRAGMA max_page_count = 4294967294")
    assert not database.in_transaction
    write()
    assert database.query("SELECT count(*) FROM number") == [(50_001,)]


def test_a_second_writer_waits_and_then_says_so(database: Database, path: Path) -> None:
    with closing(open_database(path, SCHEMA)) as other:
        other.execute("PRAGMA busy_timeout = 100")
        locked = refused(
            ResourceError, "database-unavailable", match=r"\S+: database is lock"
        )
        with database.transaction(), locked:
            other.query("INSERT INTO number VALUES (1)")
        other.query("INSERT INTO number VALUES (1)")


def test_processes_that_make_a_database_at_once_all_get_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _RACE, str(tmp_path), "20", SCHEMA.tables]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(3)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
    for racer in racers:
        racer.communicate(b"\n")
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert {tuple(numbers(file)) for file in tmp_path.glob("*.db")} == {(1, 1, 1)}


@pytest.mark.parametrize("threads", [False, True])
def test_another_thread_uses_a_connection_only_if_it_was_opened_so(
    path: Path, *, threads: bool
) -> None:
    said = []
    with closing(open_database(path, SCHEMA, threads=threads)) as database:

        def use() -> None:
            try:
                said.append(str(database.query("SELECT 1")))
            except ResourceError as error:
                said.append(str(error))

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert (said == ["[(1,)]"]) is threads
    assert threads or "SQLite objects created in a thread" in said[0]


def test_a_copy_holds_what_was_committed_and_keeps_no_writer_waiting(
    database: Database, path: Path, tmp_path: Path
) -> None:
    database.query("INSERT INTO number VALUES (1)")
    copy = tmp_path / "copy.db"
    with database.transaction():
        database.execute("INSERT INTO number VALUES (2)")
        copy_database(path, copy)
        database.execute("INSERT INTO number VALUES (3)")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(tmp_path.glob("copy.db*")) == [copy]
    with closing(open_database(copy, SCHEMA, readonly="still")) as copied:
        assert copied.query("SELECT value FROM number") == [(1,)]


def test_a_copy_is_never_written_over_a_file_and_a_damaged_source_is_said(
    path: Path, tmp_path: Path
) -> None:
    open_database(path, SCHEMA).close()
    copy = tmp_path / "copy.db"
    copy.write_text("mine")
    with refused(ResourceError, "database-unavailable", match="copy"):
        copy_database(path, copy)
    assert copy.read_text() == "mine"
    with refused(ResourceError, "database-unavailable", match="none"):
        copy_database(tmp_path / "none.db", tmp_path / "other.db")
    assert not (tmp_path / "other.db").exists()
    noise = tmp_path / "noise.db"
    noise.write_bytes(b"no database at all, but longer than a header" * 99)
    with refused(ResourceError, "database-damaged"):
        copy_database(noise, tmp_path / "other.db")
