"""A full disk is called one."""

import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from tapestry.encoding import digest
from tapestry.errors import ResourceError
from tapestry_node.budget.ledger import Ledger, PrivacyPromise
from tapestry_node.disk import why
from tapestry_node.node_state import NodeState

ERROR = sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("free", [0, 1 << 30], ids=["full", "room"])
def test_a_full_disk_is_told_from_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    full = f"; the disk is full, make room in {tmp_path}" if not free else ""
    assert why(ERROR, tmp_path / "state.db") == f"disk I/O error{full}"


def test_a_disk_that_cannot_be_asked_leaves_the_error(tmp_path: Path) -> None:
    assert why(ERROR, tmp_path / "gone" / "state.db") == "disk I/O error"


def test_store_and_ledger_say_that_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    for name in ("state.db", "budget.db"):
        (tmp_path / name).mkdir()  # no database can be opened there
    terms = PrivacyPromise(
        dataset=digest(b""), records=2, epsilon=1, fallback_epsilon=1, delta=0.1
    )
    with pytest.raises(ResourceError, match=r"state\.db: .*the disk is full"):
        NodeState(tmp_path / "state.db")
    with pytest.raises(ResourceError, match=r"budget\.db: .*the disk is full"):
        Ledger.open(tmp_path / "budget.db", terms)
    store = NodeState(tmp_path / "other.db")
    store.close()
    vars(store)["_db"] = Failing()
    with pytest.raises(ResourceError, match=r"state\.db: disk I/O error; the disk is"):
        store.highest("run")


class Failing:
    """A connection to a disk that refuses."""

    def execute(self, *_: object) -> None:
        raise ERROR
