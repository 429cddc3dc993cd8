"""A folder whose list of files is closed: what has no place in it is named."""

import os
import re
from pathlib import Path

import pytest

from tapestry.artifacts.closed_list import PROOFS, ClosedList
from tapestry.errors import ForeignFileError, ResourceError
from tests.support.refusals import refused

LIST = ClosedList(
    what="a thing",
    files=re.compile(r"a\.txt|inner/b\.txt"),
    folders=frozenset({"inner"}),
    proofs=frozenset({"own.entry", "own.sig"}),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every kind of file that the list has a place for."""
    place = tmp_path / "thing"
    for name in ("a.txt", "inner/b.txt", f"{PROOFS}/manifest.json"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("x")
    return place


def _foreign(folder: Path) -> tuple[str, ...]:
    with refused(ForeignFileError, "foreign-file") as caught:
        LIST.check(folder)
    assert "as a thing" in str(caught.value)
    return caught.value.files


def test_listed_files_and_proofs_are_all_that_a_folder_may_hold(folder: Path) -> None:
    LIST.check(folder)
    (folder / "a.txt").unlink()
    LIST.check(folder)  # what is missing is for others to say


@pytest.mark.parametrize("name", ["own.entry", "own.sig"])
def test_a_proof_of_this_kind_has_a_place_beside_the_manifest(
    folder: Path, name: str
) -> None:
    (folder / PROOFS / name).touch()
    LIST.check(folder)
    (folder / PROOFS / name).unlink()
    (folder / PROOFS / name).mkdir()
    assert _foreign(folder) == (f"{PROOFS}/{name}/",)


@pytest.mark.parametrize(
    "name",
    [
        "b.txt",
        "a.txt~",
        "A.txt",
        "inner/a.txt",
        f"{PROOFS}/code.py",
        f"{PROOFS}/other.json",
        f"{PROOFS}/own.Entry",
        f"{PROOFS}/own.entry.sig",
        f"{PROOFS}/a.txt",
        "own.entry",
        "manifest.json",
        ".git",
        "a.txt\n",
    ],
)
def test_a_file_without_a_place_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).touch()
    assert _foreign(folder) == (name,)


@pytest.mark.parametrize("name", ["other", "inner/deep", f"{PROOFS}/deep"])
def test_a_folder_without_a_place_is_named_with_a_slash_and_not_entered(
    folder: Path, name: str
) -> None:
    (folder / name).mkdir()
    (folder / name / "b.txt").touch()
    assert _foreign(folder) == (f"{name}/",)


@pytest.mark.parametrize("name", ["a.txt", "inner", PROOFS])
def test_a_link_is_refused_even_where_a_file_has_a_place(
    folder: Path, tmp_path: Path, name: str
) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with refused(ForeignFileError, "foreign-file", match=name):
        LIST.check(folder)


def test_a_file_in_place_of_a_folder_and_a_folder_in_place_of_a_file_are_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "inner").touch()
    (tmp_path / "a.txt").mkdir()
    assert _foreign(tmp_path) == ("a.txt/", "inner")


def test_a_pipe_under_a_listed_name_is_refused_without_waiting(folder: Path) -> None:
    (folder / "a.txt").unlink()
    os.mkfifo(folder / "a.txt")
    assert _foreign(folder) == ("a.txt",)


def test_all_that_is_foreign_is_named_at_once(folder: Path) -> None:
    for name in ("z", "b", "inner/c"):
        (folder / name).touch()
    assert set(_foreign(folder)) == {"z", "b", "inner/c"}


@pytest.mark.parametrize("name", ["nowhere", "thing/a.txt"])
def test_what_is_no_folder_cannot_be_read(folder: Path, name: str) -> None:
    with refused(ResourceError, "file-unreadable", match=name):
        LIST.check(folder.parent / name)


def test_a_list_without_folders_of_its_own_takes_proofs_alone(folder: Path) -> None:
    plain = ClosedList(what="a thing", files=re.compile("a.txt"), proofs=frozenset())
    with refused(ForeignFileError, "foreign-file", match="inner/"):
        plain.check(folder)
