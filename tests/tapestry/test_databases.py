"""What stands where a database should be: no device, FIFO or folder is one."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tapestry.errors import ResourceError
from tapestry_coordinator.journal import Journal
from tapestry_governance.log.database import LogDatabase as LogStore
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.budget.ledger import Ledger
from tapestry_node.node_state import NodeState
from tests.node.budget.test_ledger import TERMS
from tests.support.cosigning import TRUST

OPENERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "state": ("state.db", lambda folder: NodeState(folder / "state.db")),
    "state, to read": (
        "state.db",
        lambda folder: NodeState(folder / "state.db", readonly=True),
    ),
    "budget": ("budget.db", lambda folder: Ledger.open(folder / "budget.db", TERMS)),
    "budget, to read": (
        "budget.db",
        lambda folder: Ledger.look(
            folder / "budget.db", epsilon=1.0, fallback_epsilon=1.0
        ),
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
IN_PLACE: dict[str, Callable[[Path], object]] = {
    "device": lambda path: path.symlink_to("/dev/null"),
    "FIFO": os.mkfifo,
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("opener", OPENERS)
def test_what_is_no_file_is_no_database(tmp_path: Path, opener: str, kind: str) -> None:
    """SQLite would write its journal beside a device."""
    name, take = OPENERS[opener]
    IN_PLACE[kind](tmp_path / name)
    with pytest.raises(ResourceError, match="is no plain file"):
        take(tmp_path)
    assert not Path("/dev/null-journal").exists()


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize("opener", OPENERS)
def test_what_is_no_file_is_no_journal_of_a_database(
    tmp_path: Path, opener: str, suffix: str
) -> None:
    """SQLite would wait for a FIFO."""
    name, take = OPENERS[opener]
    os.mkfifo(tmp_path / f"{name}{suffix}")
    with pytest.raises(ResourceError, match=f"{name}{suffix} is no plain file"):
        take(tmp_path)


@pytest.mark.parametrize("opener", OPENERS)
def test_a_path_that_cannot_be_looked_at_is_said(tmp_path: Path, opener: str) -> None:
    _, take = OPENERS[opener]
    with pytest.raises(ResourceError):
        take(tmp_path / ("x" * 300))
