"""What stands where a database should be: no device, FIFO or folder is one."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.errors import ResourceError
from tapestry_coordinator.journal import Journal
from tapestry_governance.log.database import LogDatabase as LogStore
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.node_state import NodeState
from tests.support.cosigning import TRUST
from tests.support.refusals import refused

OPENERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "node": ("node.db", lambda folder: NodeState(folder / "node.db")),
    "node, to read": (
        "node.db",
        lambda folder: NodeState(folder / "node.db", readonly=True),
    ),
    "view": (
        "view.db",
        lambda folder: LogMirror.open(folder / "view.db", trust=TRUST, genesis=""),
    ),
    "view, to read": (
        "view.db",
        lambda folder: LogMirror.open(
            folder / "view.db", trust=TRUST, genesis="", readonly=True
        ),
    ),
    "journal": ("journal.db", Journal),
    "journal, to read": ("journal.db", partial(Journal, readonly=True)),
    "log": ("log.db", LogStore),
    "log, to read": ("log.db", partial(LogStore, readonly=True)),
}
WRITERS = [name for name in OPENERS if "read" not in name]
IN_PLACE: dict[str, Callable[[Path], object]] = {
    "device": lambda path: path.symlink_to("/dev/null"),
    "FIFO": os.mkfifo,
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("opener", OPENERS)
def test_a_path_that_is_no_plain_file_is_refused_as_a_database(
    tmp_path: Path, opener: str, kind: str
) -> None:
    """SQLite would write its journal beside a device."""
    name, take = OPENERS[opener]
    IN_PLACE[kind](tmp_path / name)
    with refused(ResourceError, "database-unavailable", match="is no plain file"):
        take(tmp_path)
    assert not Path("/dev/null-journal").exists()


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize("opener", OPENERS)
def test_a_journal_that_is_no_plain_file_is_refused(
    tmp_path: Path, opener: str, suffix: str
) -> None:
    """SQLite would wait for a FIFO."""
    name, take = OPENERS[opener]
    os.mkfifo(tmp_path / f"{name}{suffix}")
    with refused(
        ResourceError, "database-unavailable", match=f"{name}{suffix} is no plain file"
    ):
        take(tmp_path)


@pytest.mark.parametrize("opener", OPENERS)
def test_an_unreadable_path_of_a_database_is_named(tmp_path: Path, opener: str) -> None:
    _, take = OPENERS[opener]
    with pytest.raises(ResourceError):
        take(tmp_path / ("x" * 300))


@pytest.mark.parametrize("opener", WRITERS)
def test_a_full_disk_is_named_by_every_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    name, take = OPENERS[opener]
    (tmp_path / name).mkdir()  # no database can be opened there
    full = f"{name}: .*; the disk is full, make room in {tmp_path}$"
    with refused(ResourceError, "disk-full", match=full):
        take(tmp_path)


def test_a_write_to_a_full_disk_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    store = NodeState(tmp_path / "node.db")
    store.database.execute("PRAGMA max_page_count = 1")
    full = f"node.db: database or disk is full; the disk is full, make.* {tmp_path}$"
    with refused(ResourceError, "disk-full", match=full):
        store.post(b"entry" * 10_000)
    store.close()


@pytest.mark.parametrize("opener", WRITERS)
def test_every_database_is_private_whatever_the_umask(
    tmp_path: Path, opener: str
) -> None:
    name, take = OPENERS[opener]
    before = os.umask(0)
    try:
        opened = take(tmp_path)
    finally:
        os.umask(before)
    modes = {oct(p.stat().st_mode & 0o777) for p in tmp_path.glob(f"{name}*")}
    opened.close()
    assert modes == {"0o600"}


@pytest.mark.parametrize("place", [o for o in OPENERS if not o.startswith("log")])
@pytest.mark.parametrize("content", WRITERS[:-1])
def test_no_database_is_taken_for_one_of_another_kind(
    tmp_path: Path, content: str, place: str
) -> None:
    """A node's view in the place of its state would say that it never uploaded."""
    (held, make), (name, take) = OPENERS[content], OPENERS[place]
    make(tmp_path).close()
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / held, tmp_path / "other" / name)
    if held != name:
        with refused(
            ResourceError,
            "database-kind-differs",
            match=rf"{name}: it is of kind 0x5470\w+,",
        ):
            take(tmp_path / "other")
    else:
        take(tmp_path / "other").close()
