"""Whatever lies in a folder is a file to read or is refused by name."""

import multiprocessing
import os
import socket
import tempfile
from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults
from tapestry.inputs.folder_walker import walk
from tests.support.refusals import refused

NOBODY = 65534


def _walk(folder: Path) -> tuple[list[str], str]:
    faults = Faults()
    names = [os.fsdecode(p.relative_to(folder)) for p in walk(folder, faults)]
    try:
        faults.check(folder)
    except ConfigError as error:
        return names, str(error)
    return names, ""


def test_all_files_are_found_in_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a.txt", "a/b/c.txt", "A.txt", "B.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names, said = _walk(tmp_path)
    plain = [p for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    assert names == [str(p.relative_to(tmp_path)) for p in plain]
    assert names[:2] == ["A.txt", "B.txt"]  # two files, whatever their case
    assert said == ""


def test_links_are_refused_wherever_they_lead(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "lost.txt").touch()
    (folder / "to-folder").symlink_to(other)
    (folder / "to-file.txt").symlink_to(other / "lost.txt")
    (folder / "to-nowhere.txt").symlink_to("/nowhere/at/all")
    (folder / "to-itself").symlink_to(folder)
    names, said = _walk(folder)
    assert names == []
    for name in ("to-folder", "to-file.txt", "to-nowhere.txt", "to-itself"):
        assert f"{name}: is a link; put the file or folder itself there" in said
    assert said.startswith(f"{folder}: 4 faults\n")


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").touch()
    (tmp_path / "link").symlink_to("real")
    assert _walk(tmp_path / "link") == (["a.txt"], "")


@pytest.mark.parametrize(
    "name", [".DS_Store", "._a.txt", ".git/config", ".a.txt.swp", "a/.hidden.txt"]
)
def test_what_programs_leave_behind_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    names, said = _walk(tmp_path)
    assert names == []
    assert said.endswith(": is hidden, as what other programs leave behind; remove it")


def test_a_hidden_file_that_is_named_is_let_in_at_the_top_alone(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    for name in (".known", ".other", "a/.known"):
        (tmp_path / name).touch()
    faults = Faults()
    assert walk(tmp_path, faults, beside={".known"}) == [tmp_path / ".known"]
    assert len(faults) == 2
    (tmp_path / ".known").unlink()
    (tmp_path / ".known").mkdir()
    assert walk(tmp_path, faults, beside={".known"}) == []
    assert len(faults) == 5


def test_an_entry_that_is_no_file_is_named_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.txt"))
        names, said = _walk(tmp_path)
    assert names == []
    assert "fifo.txt: is a FIFO, socket or device" in said
    assert "socket.txt: is a FIFO, socket or device" in said


def test_any_file_name_is_one_printable_line(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\n\x1b[2J.txt")
    (tmp_path / odd).touch()
    names, said = _walk(tmp_path)
    assert names == [odd]
    assert said == ""
    (tmp_path / os.fsdecode(b"\xfe\n")).symlink_to("nowhere")
    assert _walk(tmp_path)[1].startswith(f"{tmp_path}/\\xfe\\n: is a link")


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with refused(ConfigError, "folder-missing", match="nowhere"):
        walk(tmp_path / "nowhere", Faults())
    (tmp_path / "file").touch()
    with refused(ConfigError, "folder-missing"):
        walk(tmp_path / "file", Faults())


def _as_nobody(folder: Path, out: "multiprocessing.SimpleQueue[object]") -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    out.put(_walk(folder))


def test_an_unreadable_folder_is_named() -> None:
    """Root reads everything, so a child that is nobody walks."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("closed", "listed"):
            (folder / name).mkdir()
            (folder / name / "a.txt").touch()
        (folder / "b.txt").touch()
        folder.chmod(0o755)
        (folder / "closed").chmod(0o300)
        (folder / "listed").chmod(0o644)  # names can be read, files cannot
        context = multiprocessing.get_context("fork")
        out = context.SimpleQueue()
        child = context.Process(target=_as_nobody, args=(folder, out))
        child.start()
        child.join()
        (folder / "closed").chmod(0o700)
        (folder / "listed").chmod(0o700)
        assert child.exitcode == 0
        names, said = out.get()
    assert names == ["b.txt"]
    assert "closed: cannot read this folder: Permission denied" in said
    assert "listed/a.txt: cannot read it: Permission denied" in said
