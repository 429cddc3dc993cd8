"""Entries that were handed to the coordinator."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapestry.errors import ResourceError, RuleError
from tapestry_coordinator.inbox import FOLDER, Inbox


def test_entries_wait_until_they_are_taken_each_once(tmp_path: Path) -> None:
    inbox, taken = Inbox(tmp_path), list[bytes]()
    assert inbox.waiting() == []
    for entry in (b"one", b"two", b"one"):
        inbox.put(entry)
    assert len(inbox.waiting()) == 2
    inbox.empty(taken.append)
    assert sorted(taken) == [b"one", b"two"]
    assert inbox.waiting() == []


def test_one_that_the_log_refuses_is_dropped_and_holds_up_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, taken = Inbox(tmp_path), list[bytes]()
    for entry in (b"one", b"two", b"three"):
        inbox.put(entry)
    (tmp_path / FOLDER / "large.entry").write_bytes(bytes(1 << 17))

    def add(entry: bytes) -> None:
        if entry == b"two":
            raise RuleError("no such vote", code="vote-closed")
        taken.append(entry)

    inbox.empty(add)
    assert sorted(taken) == [b"one", b"three"]
    assert inbox.waiting() == []
    assert "no such vote" in caplog.text


def test_a_disk_that_fails_loses_none(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    inbox.put(b"one")

    def add(_: bytes) -> None:
        raise ResourceError("the disk is full", code="disk-full")

    with pytest.raises(ResourceError):
        inbox.empty(add)
    assert len(inbox.waiting()) == 1


@contextmanager
def as_a_user() -> Iterator[None]:
    """Be a user whom modes stop, in the current folder."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_533)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize(("folder", "file"), [(0o555, 0o644), (0o555, 0), (0, 0o644)])
def test_what_cannot_be_taken_is_said_once_and_stops_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    folder: int,
    file: int,
) -> None:
    """As after a submission by another user: root's inbox under a service's log."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    inbox, taken = Inbox(Path()), list[bytes]()
    path = inbox.put(b"one")
    path.chmod(file)
    path.parent.chmod(folder)
    with as_a_user():
        for _ in range(3):
            inbox.empty(taken.append)
            assert inbox.waiting() == []
    path.parent.chmod(0o755)
    assert caplog.text.count("[inbox-closed]") == 1
    assert "Permission denied" in caplog.text
    assert taken == ([b"one"] if (folder, file) == (0o555, 0o644) else [])
    assert path.exists()
