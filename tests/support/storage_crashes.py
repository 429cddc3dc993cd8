"""Kill a process at every line of a write to storage, and look at what is left.

Run as a process of its own, since it forks: ``python -m tests.support.storage_crashes
DIRECTORY NAME`` prints how many places of a case it has killed at.
"""

import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tapestry import storage
from tapestry.storage.durable_files import (
    append_file,
    create_file,
    move_file,
    publish_folder,
    replace_file,
    replace_folder,
)
from tapestry.storage.sqlite_database import Schema, open_database
from tests.support.kills import dies

_CODE = (str(Path(storage.__file__).parent),)
_OLD, _NEW = b"old" * 1000, b"new" * 2000
_SCHEMA = Schema(
    application="TpTs",
    version=1,
    tables="CREATE TABLE a (b INTEGER) STRICT;\nCREATE TABLE c (d TEXT) STRICT;\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to write, and what must hold at any time."""

    prepare: Callable[[Path], object]
    act: Callable[[Path], object]  # doing it twice is doing it once, but for create
    check: Callable[[Path, bool], object]  # with True after the last act


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _check_file(folder: Path, done: bool) -> None:
    found = (folder / "deep" / "file").read_bytes()
    assert found in ({_NEW} if done else {_OLD, _NEW})
    if done:
        assert _names(folder / "deep") == ["file"]


def _check_first(folder: Path, done: bool) -> None:
    path = folder / "a" / "b" / "file"
    assert path.read_bytes() == _NEW if done else not path.exists() or _whole(path)


def _whole(path: Path) -> bool:
    return path.read_bytes() == _NEW


def _create(folder: Path) -> None:
    if not (folder / "file").exists():
        create_file(folder / "file", _NEW)


def _check_created(folder: Path, done: bool) -> None:
    path = folder / "file"
    found = path.read_bytes() if path.exists() else b""
    assert _NEW.startswith(found)
    assert found or not done or path.exists()


def _check_appended(folder: Path, done: bool) -> None:
    found = (folder / "file").read_bytes()
    assert found.startswith(_OLD)
    assert found.endswith(_NEW) if done else _NEW.startswith(found[len(_OLD) :])


def _two_files(folder: Path) -> None:
    (folder / "file").write_bytes(_NEW)
    (folder / "place").write_bytes(_OLD)


def _move(folder: Path) -> None:
    if (folder / "file").exists():
        move_file(folder / "file", folder / "place")


def _check_moved(folder: Path, done: bool) -> None:
    found = (folder / "place").read_bytes()
    assert found in ({_NEW} if done else {_OLD, _NEW})
    assert (found == _NEW) is not (folder / "file").exists()


def _fill(folder: Path, data: bytes) -> None:
    (folder / "below").mkdir(parents=True)
    for name in ("one", "below/two"):
        (folder / name).write_bytes(data)


def _content(folder: Path) -> set[bytes]:
    return {(folder / name).read_bytes() for name in ("one", "below/two")}


def _replace_folder(folder: Path) -> None:
    with replace_folder(folder / "place") as draft:
        _fill(draft, _NEW)


def _check_replaced(folder: Path, done: bool) -> None:
    place, draft = folder / "place", folder / "place.new"
    if done:
        assert _content(place) == {_NEW}
        assert _names(folder) == ["place"]
    elif place.exists():
        assert _content(place) in ({_OLD}, {_NEW})
    else:
        assert _content(draft) == {_NEW}
        assert _content(folder / "place.new.old") == {_OLD}


def _publish(folder: Path) -> None:
    if not (folder / "place").exists():
        publish_folder(folder / "draft", folder / "place")


def _check_published(folder: Path, done: bool) -> None:
    place = folder / "place"
    assert place.exists() or not done
    assert _content(place if place.exists() else folder / "draft") == {_NEW}


def _commit(folder: Path) -> None:
    path = folder / "file.db"
    with closing(open_database(path, _SCHEMA)) as database, database.transaction():
        for number in (1, 2):
            database.execute("INSERT INTO a VALUES (?)", (number,))
    (folder / "acknowledged").write_bytes(b"")


def _check_committed(folder: Path, done: bool) -> None:
    with closing(open_database(folder / "file.db", _SCHEMA)) as database:
        rows = database.query("SELECT b FROM a")
        assert database.query("SELECT d FROM c") == []
    assert len(rows) % 2 == 0
    assert rows or not (done or (folder / "acknowledged").exists())


CASES = {
    "replace a file": Case(
        prepare=lambda folder: replace_file(folder / "deep" / "file", _OLD),
        act=lambda folder: replace_file(folder / "deep" / "file", _NEW[:5], _NEW[5:]),
        check=_check_file,
    ),
    "write the first file": Case(
        prepare=lambda _: None,
        act=lambda folder: replace_file(folder / "a" / "b" / "file", _NEW),
        check=_check_first,
    ),
    "create a file": Case(prepare=lambda _: None, act=_create, check=_check_created),
    "append to a file": Case(
        prepare=lambda folder: create_file(folder / "file", _OLD),
        act=lambda folder: append_file(folder / "file", _NEW),
        check=_check_appended,
    ),
    "move a file": Case(
        prepare=_two_files,
        act=_move,
        check=_check_moved,
    ),
    "replace a folder": Case(
        prepare=lambda folder: _fill(folder / "place", _OLD),
        act=_replace_folder,
        check=_check_replaced,
    ),
    "publish a folder": Case(
        prepare=lambda folder: _fill(folder / "draft", _NEW),
        act=_publish,
        check=_check_published,
    ),
    "commit to a new database": Case(
        prepare=lambda _: None, act=_commit, check=_check_committed
    ),
    "commit to a database": Case(
        prepare=lambda folder: open_database(folder / "file.db", _SCHEMA).close(),
        act=_commit,
        check=_check_committed,
    ),
}


def main(directory: Path, name: str) -> None:
    """Kill at every line of a case, each time on a fresh folder; print how often."""
    case = CASES[name]
    line = 0
    died = True
    while died:
        line += 1
        folder = directory / "place"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        case.prepare(folder)
        died = dies(lambda: case.act(folder), line, _CODE)  # noqa: B023 - called here
        case.check(folder, not died)
        case.act(folder)
        case.check(folder, True)
    sys.stdout.write(f"{line - 1}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
