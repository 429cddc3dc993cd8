"""SQLite databases with durable commits, one kind per file, and typed errors."""

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tapestry.errors import ResourceError, TapestryError, VerificationError
from tapestry.storage.durable_files import failure, storage_error, sync_folder

_PATIENCE = 5.0  # seconds to wait for another process; what sqlite3 waits by itself
_TABLES = """
SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB),
    CAST(sql AS BLOB)
FROM sqlite_schema ORDER BY type, name
"""  # as bytes: of another party's file, they may be no UTF-8


ReadOnly = bool | Literal["still"]


class OtherKindError(sqlite3.DatabaseError):
    """The file is a database of another kind or version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The tables of one kind of database, and the marks that tell it from others."""

    application: str  # four ASCII characters: SQLite's application_id
    version: int  # SQLite's user_version; 0 is a database without tables yet
    tables: str  # the statements that make it
    longest: int = 0  # bytes of a value that is read from a copy; 0 for no limit

    @property
    def marks(self) -> tuple[int, int]:
        """The application id and the version."""
        return int.from_bytes(self.application.encode("ascii"), "big"), self.version


class Database(sqlite3.Connection):
    """A connection to an SQLite database; open it with ``open_database``.

    Its methods are those of ``sqlite3.Connection`` and raise ``sqlite3.Error``; the
    three that are added here translate it.
    """

    path: Path
    damage: type[TapestryError] = ResourceError

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors of the block into the project's own.

        Raises:
            ResourceError: The disk is full or failing, another process holds the
                database for seconds, or the block raised an ``OSError``.
            TapestryError: The file is damaged, or a table refused a row; of the class
                that ``open_database`` was given.
        """
        with _database_errors(self.path, "use", damage=self.damage):
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all or nothing, with no other writer between the first and the last.

        Guarantees:
            When it ends, what it has written survives a crash and a power failure.
            When the block raises, or the process dies, nothing of it remains.

        Raises:
            ResourceError, TapestryError: SQLite refused a statement; as ``errors``.
        """
        with self.errors():
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back itself
                    self.execute("ROLLBACK")
                raise

    def query(self, statement: str, *values: Any) -> list[Any]:
        """Execute one statement and return its rows; what it writes is durable.

        Raises:
            ResourceError, TapestryError: SQLite refused the statement; as ``errors``.
        """
        with self.errors():
            return self.execute(statement, values).fetchall()

    def execute_script(self, script: str) -> None:
        """Execute statements in the open transaction.

        ``sqlite3``'s own ``executescript`` would commit it first.
        """
        statement = ""
        for line in script.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self.execute(statement)
                statement = ""

    def holds(self, schema: Schema) -> bool:
        """Return whether the tables are there; False if the database is empty.

        Call it inside a transaction: it looks three times, and another process may be
        making the tables.

        Raises:
            OtherKindError: The database is of another kind or version.
        """
        ((tables,),) = self.execute("SELECT count(*) FROM sqlite_schema")
        ((application,),) = self.execute("PRAGMA application_id")
        ((version,),) = self.execute("PRAGMA user_version")
        if (application, version) == schema.marks:
            return True
        if (application, version, tables) == (0, 0, 0):
            return False
        raise OtherKindError(
            f"it is of kind {application:#x}, version {version}, and not of kind"
            f" {schema.marks[0]:#x}, version {schema.version}; put the right file back"
        )

    def create(self, schema: Schema) -> None:
        """Make the tables, all or none, unless another process was faster."""
        with self.transaction():
            if not self.holds(schema):
                self.execute_script(schema.tables)
                application, version = schema.marks
                self.execute(f"PRAGMA application_id = {application}")
                self.execute(f"PRAGMA user_version = {version}")

    def require_exactly(self, *scripts: str) -> None:
        """Require what one of some scripts makes, and sound rows: no table more.

        Until then, use nothing of a file that another party may have written: its
        tables may be views that never end, and its constraints any expression.

        Raises:
            OtherKindError: A table, an index, a trigger or a view differs.
            sqlite3.DatabaseError: The file is damaged.
        """
        found = self.execute(_TABLES).fetchall()
        for script in scripts:
            with closing(sqlite3.connect(":memory:")) as fresh:
                fresh.executescript(script)
                if fresh.execute(_TABLES).fetchall() == found:
                    return self.require_sound()
        raise OtherKindError(
            "its tables are not those of this version, so that nothing of it was read;"
            " take another copy"
        )

    def require_sound(self) -> None:
        """Require that each row has the types that its table declares.

        SQLite reads what it can of a file that was cut, and gives NULL or numbers
        where text or bytes were stored.

        Raises:
            sqlite3.DatabaseError: The file is damaged.
        """
        if self.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("it is damaged; put its newest copy back")


def open_database(
    path: Path,
    schema: Schema | None,
    *,
    readonly: ReadOnly = False,
    check: bool = True,
    threads: bool = False,
    damage: type[TapestryError] | None = None,
) -> Database:
    """Open a database, or make it; it commits each statement outside a transaction.

    Guarantees:
        A commit is on the disk when it returns (WAL, ``synchronous=FULL``), and
        foreign keys are enforced. A new database is of mode 0600, whatever the umask,
        and so are the files that SQLite keeps beside it. With ``readonly`` it is not
        made, changed or brought up to date; a writer at work is no obstacle and is
        not kept waiting, and all that is read is of one moment, near the opening; until
        it is closed, a writer's ``-wal`` grows.

    Edge cases:
        ============================  ==============================================
        A FIFO, a device, a socket    refused without waiting for it, also in the
        or a folder in its place      place of ``-journal``, ``-wal`` or ``-shm``
        A link to a plain file        followed
        The process is killed while   no tables; the next opening makes them
        it makes the tables
        A rollback journal is there,  ``readonly`` is refused: to finish what was
        after a crash                 interrupted is to write
        Another kind or version       refused; nothing is changed
        Other tables, or views, in a  refused by ``"still"``, before any is read
        file of the right kind
        ============================  ==============================================

    Args:
        path: The file; its folder is there.
        schema: The tables that it must hold; None where the caller checks them.
        readonly: Read alone; then it must be there. SQLite may leave ``-wal`` and
            ``-shm`` files beside it, but not where ``"still"`` says that no process
            writes meanwhile, unless one that was killed left a ``-wal`` to be read.
            Such a copy may be another party's: it is checked in any case, must
            have exactly the tables of the schema, and no value that is too long.
        check: Look for rows of other types than their tables declare. It reads the
            whole file; leave it out where the caller checks each row by a digest.
        threads: Whether several threads use the connection, one at a time.
        damage: The error to raise when the file is damaged; by itself
            ``VerificationError`` for ``"still"``, and ``ResourceError`` otherwise.

    Raises:
        ResourceError: The file cannot be read or written, or is no plain file; another
            process holds it for seconds.
        TapestryError: The file is damaged, or of another kind or version; the error
            is of the class ``damage``.
    """
    if damage is None:
        damage = VerificationError if readonly == "still" else ResourceError
    with _database_errors(path, "open", damage=damage):
        _require_plain(path)
        if not readonly:
            _create_private(path)
        mode = "ro" if readonly else "rw"
        if readonly == "still" and not path.with_name(path.name + "-wal").exists():
            mode += "&immutable=1"
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=not threads,
            factory=Database,
        )
        try:
            database.path, database.damage = path, damage
            if not readonly:
                _set_wal(database)
                database.execute("PRAGMA synchronous = FULL")
                database.execute("PRAGMA foreign_keys = ON")
            else:
                database.execute("BEGIN")
            _check_content(database, schema, readonly=readonly, check=check)
        except BaseException:
            database.close()
            raise
    return database


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, also while a process writes to it.

    Guarantees:
        The copy, of mode 0600, holds all commits up to one moment and nothing of later
        ones. The writer is not kept waiting.

    Raises:
        ResourceError: The source cannot be read or is damaged; there is a target
            already, or it cannot be written.
    """
    original = open_database(source, None, readonly=True, check=False)
    try:
        with _database_errors(target, "write", damage=ResourceError):
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            copy = sqlite3.connect(target, factory=Database)
            try:
                original.backup(copy)
                copy.require_sound()
            finally:
                copy.close()
    finally:
        original.close()


def _require_plain(path: Path) -> None:
    """Require that a database is a plain file, or not there yet.

    SQLite takes a device for a database and writes a journal beside it, and waits for
    a FIFO in the place of a journal.
    """
    for suffix in ("", "-journal", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists() and not file.is_file():
            raise OSError(errno.EINVAL, f"{file.name} is no plain file; put it back")


def _set_wal(database: Database) -> None:
    """Switch to WAL mode; SQLite does not wait for a process that does so as well."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _check_content(
    database: Database, schema: Schema | None, *, readonly: ReadOnly, check: bool
) -> None:
    if schema is not None:
        _require_tables(database, schema, readonly=readonly)
    if schema is not None and readonly == "still":
        database.require_exactly(schema.tables)
        if schema.longest:
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, schema.longest)
    elif check:
        database.require_sound()


def _require_tables(database: Database, schema: Schema, *, readonly: ReadOnly) -> None:
    if readonly:
        if not database.holds(schema):
            raise sqlite3.OperationalError("nothing was stored in it yet")
        return
    database.execute("BEGIN")  # one moment's content, without keeping a writer out
    try:
        is_made = database.holds(schema)
    finally:
        database.execute("ROLLBACK")
    if not is_made:
        database.create(schema)


def _create_private(path: Path) -> None:
    if not path.exists():  # a link that leads nowhere yet is followed
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        sync_folder(path.resolve().parent)


@contextmanager
def _database_errors(
    path: Path, verb: str, *, damage: type[TapestryError]
) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:  # damage, quoted in SQLite's own message
        raise damage(
            f"cannot {verb} {path}: it is damaged", code="database-damaged"
        ) from error
    except (OSError, sqlite3.OperationalError) as error:  # full, locked, read-only
        raise storage_error(verb, path, error, code="database-unavailable") from error
    except sqlite3.IntegrityError as error:  # a constraint or a trigger
        raise damage(failure(verb, path, error), code="row-refused") from error
    except OtherKindError as error:
        said = failure(verb, path, error)
        raise damage(said, code="database-kind-differs") from error
    except sqlite3.DatabaseError as error:
        raise damage(failure(verb, path, error), code="database-damaged") from error
    except sqlite3.Error as error:
        raise storage_error(verb, path, error, code="database-unavailable") from error
