"""One process at a time, however it ends, and nothing but a plain file is opened."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapestry.errors import ResourceError
from tapestry.storage.file_lock import is_locked, lock_file, lock_folder
from tests.support.refusals import refused

_HOLD = """
import pathlib, sys
from tapestry.storage import file_lock
lock = getattr(file_lock, sys.argv[1])(pathlib.Path(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(kind: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let another process hold a lock until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, kind, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process


LOCKS = {"lock_file": lock_file, "lock_folder": lock_folder}


@pytest.fixture(params=LOCKS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A kind of lock and what it is taken on."""
    place = tmp_path if request.param == "lock_folder" else tmp_path / "lock"
    return request.param, place


def test_of_two_processes_one_holds_a_lock(kind: tuple[str, Path]) -> None:
    name, place = kind
    with another_process(*kind):
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                LOCKS[name](place)
    LOCKS[name](place).release()


def test_a_killed_process_releases_its_lock(kind: tuple[str, Path]) -> None:
    name, place = kind
    with another_process(*kind) as process:
        process.kill()
        process.wait()
        with LOCKS[name](place):
            pass


def test_a_lock_is_released_once_and_for_all(kind: tuple[str, Path]) -> None:
    name, place = kind
    first = LOCKS[name](place)
    first.release()
    with LOCKS[name](place):
        first.release()  # whose number the second may have now
        with pytest.raises(BlockingIOError):
            LOCKS[name](place)


def test_a_lock_may_be_waited_for(tmp_path: Path) -> None:
    taken = threading.Event()

    def wait() -> None:
        with lock_file(tmp_path / "lock", wait=True):
            taken.set()

    with another_process("lock_file", tmp_path / "lock") as process:
        thread = threading.Thread(target=wait)
        thread.start()
        assert not taken.wait(0.2)
        process.kill()
        thread.join(60)
    assert taken.is_set()


def test_asking_whether_a_file_is_locked_takes_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    with another_process("lock_file", path):
        assert is_locked(path)
    assert not is_locked(path)
    with lock_file(path):
        assert is_locked(path)


def test_the_file_of_a_lock_is_private_and_keeps_what_is_in_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        lock_file(tmp_path / "lock").release()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    (tmp_path / "lock").write_bytes(b"kept")
    lock_file(tmp_path / "lock").release()
    assert (tmp_path / "lock").read_bytes() == b"kept"


IN_PLACE: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to(path.with_name("target")),
    "link to nothing": lambda path: path.symlink_to("made"),
    "FIFO": os.mkfifo,
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("kind_of_file", IN_PLACE)
def test_what_is_no_plain_file_is_not_locked(
    tmp_path: Path, kind_of_file: str, *, wait: bool
) -> None:
    (tmp_path / "target").write_bytes(b"")
    IN_PLACE[kind_of_file](tmp_path / "lock")
    with refused(ResourceError, "lock-unavailable", match=r"^.+lock: [^\n]+$"):
        lock_file(tmp_path / "lock", wait=wait)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind_of_file", ["link", "link to nothing"])
def test_a_link_is_not_asked_for_its_lock(tmp_path: Path, kind_of_file: str) -> None:
    (tmp_path / "target").write_bytes(b"")
    IN_PLACE[kind_of_file](tmp_path / "lock")
    with refused(ResourceError, "lock-unavailable"):
        is_locked(tmp_path / "lock")


def test_a_file_is_no_folder_to_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("file", "nothing"):
        with refused(ResourceError, "lock-unavailable", match=rf"\S+{name}: "):
            lock_folder(tmp_path / name)


def test_a_file_system_without_locks_is_not_taken_for_a_held_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with refused(ResourceError, "lock-unavailable", match=r"lock: No locks available"):
        lock_file(tmp_path / "lock")
