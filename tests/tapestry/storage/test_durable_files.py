"""Files and folders: whole or not there, in order on the disk, and never led astray."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.errors import ResourceError
from tapestry.storage import durable_files
from tapestry.storage.durable_files import (
    append_file,
    create_file,
    make_folders,
    publish_folder,
    remove_file,
    remove_leftovers,
    replace_file,
    replace_folder,
    sync_folder,
    sync_tree,
    write_errors,
)
from tests.support import storage_crashes
from tests.support.file_limits import file_limit
from tests.support.refusals import refused

REPOSITORY = Path(__file__).parents[3]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What reaches the disk and what is renamed, in order, by the names of paths."""
    seen: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace", "rename")}

    def name_of(path: Any) -> str:
        return str(Path(path).relative_to(tmp_path))

    def fsync(handle: int) -> None:
        seen.append(f"sync {name_of(Path(f'/proc/self/fd/{handle}').readlink())}")
        real["fsync"](handle)

    def rename(name: str) -> Callable[..., None]:
        def call(source: Any, target: Any) -> None:
            seen.append(f"{name_of(source)} -> {name_of(target)}")
            real[name](source, target)

        return call

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename("replace"))
    monkeypatch.setattr(os, "rename", rename("rename"))
    return seen


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill(folder: Path, data: str) -> None:
    (folder / "below").mkdir(parents=True)
    (folder / "one").write_text(data)
    (folder / "below" / "two").write_text(data)


# The order of things


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_return(
    tmp_path: Path, steps: list[str]
) -> None:
    replace_file(tmp_path / "file", b"one", memoryview(b", two"))
    assert (tmp_path / "file").read_bytes() == b"one, two"
    assert steps == ["sync file.new", "file.new -> file", "sync ."]


def test_each_new_folder_on_the_way_is_on_the_disk_before_the_next(
    tmp_path: Path, steps: list[str]
) -> None:
    replace_file(tmp_path / "a" / "b" / "file", b"")
    before, after = steps[:2], steps[2:]
    assert before == ["sync .", "sync a"]
    assert after == ["sync a/b/file.new", "a/b/file.new -> a/b/file", "sync a/b"]
    steps.clear()
    make_folders(tmp_path / "a" / "b")
    assert steps == []
    make_folders(tmp_path / "a" / "c")
    assert steps == ["sync a"]


def test_a_created_file_and_an_appended_one_are_on_the_disk_with_their_names(
    tmp_path: Path, steps: list[str]
) -> None:
    create_file(tmp_path / "key", b"one", b"two")
    append_file(tmp_path / "list", b"one\n")
    append_file(tmp_path / "list", b"two\n")
    assert steps == ["sync key", "sync .", "sync list", "sync .", "sync list"]
    assert (tmp_path / "key").read_bytes() == b"onetwo"
    assert (tmp_path / "list").read_bytes() == b"one\ntwo\n"


def test_a_folder_is_on_the_disk_with_all_in_it_before_it_has_its_name(
    tmp_path: Path, steps: list[str]
) -> None:
    fill(tmp_path / "place", "old")
    (tmp_path / "elsewhere").mkdir()
    with replace_folder(tmp_path / "place") as draft:
        fill(draft, "new")
        (draft / "link").symlink_to(tmp_path / "elsewhere")
    written, named = steps[:4], steps[4:]
    assert set(written) == {
        *("sync place.new/one", "sync place.new/below", "sync place.new"),
        "sync place.new/below/two",
    }
    assert named == ["place -> place.new.old", "place.new -> place", "sync ."]
    assert (tmp_path / "place" / "one").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "place"]


def test_a_tree_reaches_the_disk_with_its_own_name(
    tmp_path: Path, steps: list[str]
) -> None:
    fill(tmp_path / "place", "")
    sync_tree(tmp_path / "place")
    assert set(steps[:-1]) == {
        *("sync place/one", "sync place/below", "sync place/below/two", "sync place"),
    }
    assert steps[-1] == "sync ."
    steps.clear()
    publish_folder(tmp_path / "place", tmp_path / "published")
    assert steps[-2:] == ["place -> published", "sync ."]


@pytest.mark.parametrize("case", storage_crashes.CASES)
def test_a_process_that_is_killed_at_any_line_leaves_all_or_nothing(
    tmp_path: Path, case: str
) -> None:
    command = [sys.executable, "-m", "tests.support.storage_crashes"]
    done = subprocess.run(
        [*command, str(tmp_path), case],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10


# What the machine refuses


WRITES: dict[str, Callable[[Path], object]] = {
    "replace": lambda path: replace_file(path, b"new"),
    "create": lambda path: create_file(path.with_name("other"), b"new"),
    "append": lambda path: append_file(path.with_name("list"), b"new"),
}


@pytest.mark.parametrize(
    ("write", "function"),
    [*((w, f) for w in WRITES for f in ("open", "fsync")), ("replace", "replace")],
)
def test_a_step_that_the_machine_refuses_leaves_the_old_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str, function: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with refused(ResourceError, "file-unwritable", match=r"\S+: Input/output"):
            WRITES[write](tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    left = ["file", "list"] if (write, function) == ("append", "fsync") else ["file"]
    assert names(tmp_path) == left


def test_a_folder_that_cannot_be_synced_is_an_error_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new bytes are there, whole; whether they last is not known."""
    (tmp_path / "file").write_bytes(b"old")
    real, calls = os.fsync, iter(range(2))

    def fail_second(handle: int) -> None:
        if next(calls):
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fail_second)
    with refused(ResourceError, "file-unwritable"):
        replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_full_disk_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    with (
        file_limit(1000),
        refused(ResourceError, "file-unwritable", match="file"),
    ):
        replace_file(path, b"n" * 500, b"e" * 9000)
    assert path.read_bytes() == b"old"
    with file_limit(1000), refused(ResourceError, "file-unwritable"):
        create_file(tmp_path / "key", b"n" * 9000)
    assert names(tmp_path) == ["file"]
    with file_limit(1000), refused(ResourceError, "file-unwritable"):
        append_file(path, b"n" * 9000)
    assert path.read_bytes() == b"old" + b"n" * 997


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "place", "old")
    before = names(tmp_path)

    def replace() -> None:
        with replace_folder(tmp_path / "place") as draft:
            fill(draft, "n" * 9000)

    with (
        file_limit(1000),
        refused(ResourceError, "file-unwritable", match="place"),
    ):
        replace()
    assert names(tmp_path) == before
    assert (tmp_path / "place" / "one").read_text() == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_folder(
    tmp_path: Path, error: type[BaseException]
) -> None:
    fill(tmp_path / "place", "old")
    before = names(tmp_path)

    def replace() -> None:
        with replace_folder(tmp_path / "place") as draft:
            fill(draft, "new")
            raise error

    with pytest.raises(error):
        replace()
    assert names(tmp_path) == before
    assert (tmp_path / "place" / "one").read_text() == "old"


def test_a_folder_that_cannot_take_its_name_gives_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "place", "old")
    real = os.rename

    def fail(source: Any, target: Any) -> None:
        if Path(source).suffix == ".new":
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", fail)

    def replace() -> None:
        with replace_folder(tmp_path / "place") as draft:
            fill(draft, "new")

    with refused(ResourceError, "file-unwritable"):
        replace()
    assert (tmp_path / "place" / "below" / "two").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("free", [0, 1 << 30], ids=["full", "room"])
def test_a_full_disk_is_told_from_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    path = tmp_path / "node.db"
    said = f"cannot write {path}: disk I/O error"
    full = f"; the disk is full, make room in {tmp_path}" if not free else ""
    with pytest.raises(ResourceError) as caught, write_errors(path):
        raise OSError(errno.EIO, "disk I/O error")
    assert str(caught.value) == said + full


def test_a_disk_that_cannot_be_asked_leaves_the_error(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "node.db"
    said = durable_files.failure("open", path, OSError("one\nline"))
    assert said == f"cannot open {path}: one line"


# What stands in the way


IN_PLACE: dict[str, Callable[[Path], object]] = {
    "link": lambda path: path.symlink_to(path.with_name("target")),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/full"),
    "file": lambda path: path.write_bytes(b"left"),
}


@pytest.mark.parametrize("kind", IN_PLACE)
@pytest.mark.parametrize("name", ["file", "file.new"])
def test_what_stands_in_the_place_of_a_file_is_replaced_and_not_written_into(
    tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / "target").write_bytes(b"kept")
    IN_PLACE[kind](tmp_path / name)
    replace_file(tmp_path / "file", b"new")
    assert stat.S_ISREG((tmp_path / "file").lstat().st_mode)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "target").read_bytes() == b"kept"
    assert names(tmp_path) == ["file", "target"]


@pytest.mark.parametrize("name", ["file", "file.new"])
def test_a_folder_in_the_place_of_a_file_stays(tmp_path: Path, name: str) -> None:
    fill(tmp_path / name, "kept")
    with refused(ResourceError, "file-unwritable", match="file: Is a dir"):
        replace_file(tmp_path / "file", b"new")
    assert (tmp_path / name / "one").read_text() == "kept"


@pytest.mark.parametrize("kind", [*IN_PLACE, "folder"])
def test_a_file_is_created_where_nothing_is(tmp_path: Path, kind: str) -> None:
    (tmp_path / "target").write_bytes(b"kept")
    (IN_PLACE | {"folder": Path.mkdir})[kind](tmp_path / "key")
    before = (tmp_path / "key").lstat()
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "key", b"new")
    assert (tmp_path / "key").lstat() == before
    assert (tmp_path / "target").read_bytes() == b"kept"
    assert names(tmp_path) == ["key", "target"]


def test_a_link_is_appended_through_and_nothing_else_that_is_no_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "target").write_bytes(b"one\n")
    (tmp_path / "link").symlink_to("target")
    append_file(tmp_path / "link", b"two\n")
    assert (tmp_path / "target").read_bytes() == b"one\ntwo\n"
    os.mkfifo(tmp_path / "fifo")
    with refused(
        ResourceError, "file-unwritable", match="No such device"
    ):  # and nobody reads it
        append_file(tmp_path / "fifo", b"x")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with refused(ResourceError, "file-unwritable"):
        append_file(tmp_path / "fifo", b"x")
    assert os.read(reader, 1) == b""
    os.close(reader)
    (tmp_path / "device").symlink_to("/dev/null")
    with refused(ResourceError, "file-unwritable"):
        append_file(tmp_path / "device", b"x")
    with refused(ResourceError, "file-unwritable", match="Is a directory"):
        append_file(tmp_path, b"x")


@pytest.mark.parametrize("kind", [*IN_PLACE, "folder"])
@pytest.mark.parametrize("name", ["place", "place.new", "aside"])
def test_what_stands_in_the_place_of_a_folder_is_replaced(
    tmp_path: Path, name: str, kind: str
) -> None:
    fill(tmp_path / "target", "kept")
    if kind == "folder":
        fill(tmp_path / name, "left")
    else:
        IN_PLACE[kind](tmp_path / name)
    draft = tmp_path / "aside" if name == "aside" else None
    with replace_folder(tmp_path / "place", draft=draft) as given:
        assert given == (draft or tmp_path / "place.new")
        fill(given, "new")
    assert (tmp_path / "place" / "one").read_text() == "new"
    assert not (tmp_path / "place").is_symlink()
    assert (tmp_path / "target" / "one").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["place", "target"]


def test_a_folder_is_published_once(tmp_path: Path) -> None:
    for name in ("first", "second"):
        fill(tmp_path / name, name)
    publish_folder(tmp_path / "first", tmp_path / "place")
    with refused(ResourceError, "file-unwritable", match="place: Directory"):
        publish_folder(tmp_path / "second", tmp_path / "place")
    assert (tmp_path / "place" / "one").read_text() == "first"
    assert (tmp_path / "second" / "one").read_text() == "second"


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    acts: tuple[Callable[[Path], object], ...] = (
        *(replace_file, make_folders, create_file, sync_folder),
        lambda path: append_file(path, b""),
    )
    for act in acts:
        with refused(ResourceError, "file-unwritable", match=r"^[^\n]+file[^\n]*$"):
            act(tmp_path / "file" / "x")
    with refused(ResourceError, "file-unwritable", match="Not a directory"):
        sync_folder(tmp_path / "file")
    assert names(tmp_path) == ["file"]


# Modes, and what is removed


@pytest.mark.parametrize(
    ("mask", "readable", "private"), [(0, 0o666, 0o600), (0o077, 0o600, 0o600)]
)
def test_the_umask_narrows_a_mode_and_never_widens_it(
    tmp_path: Path, mask: int, readable: int, private: int
) -> None:
    with umask(mask):
        replace_file(tmp_path / "page", b"")
        replace_file(tmp_path / "share", b"", mode=0o600)
        create_file(tmp_path / "key", b"")
        append_file(tmp_path / "list", b"")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes.pop("page") == readable
    assert set(modes.values()) == {private}


def test_the_last_file_of_a_folder_goes_with_it(tmp_path: Path) -> None:
    fill(tmp_path / "place", "")
    remove_file(tmp_path / "place" / "below" / "two")
    assert names(tmp_path) == ["place", "place/one"]
    (tmp_path / "place" / "other").write_bytes(b"")
    for _ in range(2):
        remove_file(tmp_path / "place" / "one")
        assert names(tmp_path) == ["place", "place/other"]
    with refused(ResourceError, "file-unwritable", match=r"\S+place: Is a directory"):
        remove_file(tmp_path / "place")


def test_leftovers_are_removed_wherever_they_lie(tmp_path: Path) -> None:
    fill(tmp_path, "")
    for name in ("one.new", "below/three.new", "below/new"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["below", "below/new", "below/two", "one"]
