"""What may befall a folder: files that go, come, or turn into others."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from tests.fuzzing.damages import DAMAGES, RECORDS
from tests.fuzzing.draws import Draw
from tests.fuzzing.specimens import CANARY

Mutation = Callable[[Draw, Path], object]

_FOREIGN = (
    ".DS_Store", "Thumbs.db", "notes.txt", "x.pyc", "pytorch_model.bin", "new\nline",
    "adapter_config.json", "text.csv", "\udcff.jsonl", "x" * 255, " ", "\x1b[31m",
    "-rf", "é.jsonl", "a.jsonl~", "node.db-wal", "view.db-shm", "node.db-journal",
    "log.db-journal", "config.json", "checkpoint", "more.jsonl", "trust-policy.txt",
)  # fmt: skip
_CHANGES = (
    "DROP TABLE {t}",
    "DELETE FROM {t}",
    "DELETE FROM {t} WHERE rowid = (SELECT max(rowid) FROM {t})",
    "UPDATE OR IGNORE {t} SET {c} = {v}",
    "UPDATE OR REPLACE {t} SET {c} = substr({c}, 2)",
    "UPDATE OR IGNORE {t} SET {c} = {c} + 1",
    "ALTER TABLE {t} RENAME COLUMN {c} TO other",
    "PRAGMA user_version = 77",
    "PRAGMA journal_mode = DELETE",
    "DROP TABLE {t}; CREATE TABLE {t} (x)",
    "DROP TABLE {t}; CREATE VIEW {t} AS SELECT 1 AS x",
)
_VALUES = ("NULL", "''", "x'00ff'", "-1", "1e999", "'x'", "zeroblob(1)")


def mutate(draw: Draw, folder: Path, *, apart: bool) -> str:
    """Let something befall a folder; return what, and to which file."""
    # Whoever acted on a link would act on what is outside.
    everything = sorted(path for path in folder.rglob("*") if not path.is_symlink())
    if not everything:
        return "nothing is left"
    files = [path for path in everything if _is_plain(path)] or [folder / "file"]
    few = [path for path in files if "tile" not in path.parts or draw.chance(0.1)]
    kinds: list[tuple[Sequence[Mutation], list[Path]]] = [
        (_ON_FILES, few),
        (_ON_FILES, few),
        (_ON_ALL, everything),
        ((query,), [path for path in files if path.suffix == ".db"]),
        ((record,), [path for path in files if path.suffix == ".jsonl"]),
        ((swell,), [path for path in few if not _UNBOUNDED & {*path.parts}] * apart),
    ]
    mutations, places = draw.one([kind for kind in kinds if kind[1]])
    act, path = draw.one(mutations), draw.one(places)
    said = f"{act.__name__} {path.relative_to(folder)}"
    try:
        return f"{said}: {act(draw, path)}"
    except (OSError, sqlite3.Error) as error:  # another one took the place away
        return f"{said}: {error}"


def damage(draw: Draw, path: Path) -> str:
    """Damage the content of a file."""
    act = draw.one(DAMAGES)
    path.write_bytes(act(draw, path.read_bytes()))
    return act.__name__


def record(draw: Draw, path: Path) -> None:
    """Write a private record that breaks a rule into a file."""
    row = draw.one(RECORDS).replace("@", CANARY).encode()
    path.write_bytes(draw.one((row, row + b"\xff\xfe", path.read_bytes() + row)))


def delete(_draw: Draw, path: Path) -> None:
    """Delete a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def foreign(draw: Draw, path: Path) -> str:
    """Leave a file that somebody's tool makes."""
    made = (path if path.is_dir() else path.parent) / draw.one(_FOREIGN)
    made.write_bytes(draw.one((b"", b"x", bytes(4096), draw.bytes(50))))
    return made.name


def replace(draw: Draw, path: Path) -> str:
    """Put something else in the place of a file or folder."""
    kept = path.with_name("kept-" + path.name[:100])
    path.rename(kept)
    kind = draw.one(list(_IN_PLACE))
    _IN_PLACE[kind](path)
    if kind != "link" and draw.chance(0.7):
        delete(draw, kept)
    return kind


def allow(draw: Draw, path: Path) -> str:
    """Change who may read, write and run something."""
    mode = draw.one((0o777, 0o666, 0o644, 0o400, 0o4755, 0))
    path.chmod(mode)
    return f"{mode:o}"


def query(draw: Draw, path: Path) -> str:
    """Change a database in a way that SQLite itself would not mind."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        table = draw.one(sorted(str(name) for (name,) in rows) or ["none"])
        columns = [str(row[1]) for row in db.execute(f"PRAGMA table_info({table})")]
        column, value = draw.one(columns or ["none"]), draw.one(_VALUES)
        sql = draw.one(_CHANGES).format(t=table, c=column, v=value)
        db.executescript(sql)
    return sql


def swell(_draw: Draw, path: Path) -> None:
    """Make a file larger than memory, without a byte in it."""
    os.truncate(path, 1 << 40)


def _is_plain(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_size < 1 << 30


_IN_PLACE: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_bytes(b"x"),
    "folder": Path.mkdir,
    "link": lambda path: path.symlink_to("kept-" + path.name[:100]),
    "dangling": lambda path: path.symlink_to("gone/deeper"),
    "loop": lambda path: path.symlink_to(path.name),
    "outside": lambda path: path.symlink_to("/proc/self/task"),
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "FIFO": os.mkfifo,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)),
}
_ON_FILES: tuple[Mutation, ...] = (damage,) * 10 + (delete, replace, replace)
_ON_ALL: tuple[Mutation, ...] = (delete, foreign, foreign, replace, allow)
_UNBOUNDED = {"artifacts", "blobs", "sums"}  # what has no largest size takes its time
