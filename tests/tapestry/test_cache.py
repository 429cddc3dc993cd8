"""The cache is found, made whole or not at all, or refused with the way out."""

import errno
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tapestry.cache import cache_folder, cached
from tapestry.errors import ResourceError
from tests.support.processes import (
    STRANGER,
    as_root,
    environment,
    reachable_folder,
    run,
)
from tests.support.refusals import refused

_CACHE = """
import os, pwd, sys, traceback
from tapestry.cache import cache_folder, cached
from tapestry.errors import TapestryError
if len(sys.argv) > 1:
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
try:
    cache = cache_folder()
    cached(cache, "base", lambda folder: (folder / "f").touch())
    print(cache)
except TapestryError as error:
    print(error)
"""


def cache_of(*arguments: str, env: Mapping[str, str], cwd: Path) -> str:
    """Let a process make something in its cache; what it says, in one line."""
    done = run("-c", _CACHE, *arguments, env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"HOME": "{here}"}, "{here}/.cache/tapestry"),
        ({"HOME": "{here}", "XDG_CACHE_HOME": ""}, "{here}/.cache/tapestry"),
        ({"HOME": "{here}", "XDG_CACHE_HOME": "rel"}, "{here}/.cache/tapestry"),
        ({"XDG_CACHE_HOME": "{here}/x"}, "{here}/x/tapestry"),
        ({"TAPESTRY_CACHE": "rel"}, "{here}/rel"),
        ({"TAPESTRY_CACHE": "{here}/a b/ü"}, "{here}/a b/ü"),
        ({"TAPESTRY_CACHE": "~/c", "HOME": "{here}"}, "{here}/c"),
        ({"TAPESTRY_CACHE": "~", "HOME": "{here}"}, "{here}"),
    ],
    ids=str,
)
def test_a_cache_is_found_and_made(
    tmp_path: Path, changed: dict[str, str], expected: str
) -> None:
    env = {name: value.format(here=tmp_path) for name, value in changed.items()}
    found = cache_of(env=environment(**env), cwd=tmp_path)
    assert found == expected.format(here=tmp_path)
    assert (Path(found) / "base" / "f").exists()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"HOME": "/nonexistent/x"}, ["/nonexistent/x does not exist"]),
        ({"TAPESTRY_CACHE": "{here}/file"}, ["{here}/file: ", "make it a folder"]),
        ({"TAPESTRY_CACHE": "{here}/file/x"}, ["file/x: Not a directory"]),
        ({"TAPESTRY_CACHE": "~nobody-here/x"}, ["~nobody-here/x", "absolute"]),
        ({"TAPESTRY_CACHE": "{here}/" + "x" * 300}, ["File name too long"]),
        ({"HOME": "{here}/file"}, ["home folder {here}/file does not exist"]),
    ],
    ids=str,
)
def test_a_cache_folder_that_cannot_exist_is_refused_with_the_variable(
    tmp_path: Path, changed: dict[str, str], named: list[str]
) -> None:
    (tmp_path / "file").touch()
    env = {name: value.format(here=tmp_path) for name, value in changed.items()}
    said = cache_of(env=environment(**env), cwd=tmp_path)
    for words in ["TAPESTRY_CACHE", *named]:
        assert words.format(here=tmp_path) in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@as_root
@pytest.mark.parametrize("home", [None, ""])
def test_a_user_without_an_account_is_told_to_set_the_cache(
    tmp_path: Path, home: str | None
) -> None:
    said = cache_of(str(STRANGER), env=environment(HOME=home), cwd=tmp_path)
    assert f"user {STRANGER} has no home folder; set TAPESTRY_CACHE" in said


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are closed to others."""
    with reachable_folder() as folder:
        yield folder


@as_root
def test_a_cache_without_write_permission_is_read_and_not_written(
    reachable: Path,
) -> None:
    cache = reachable / "cache"
    cache.mkdir(mode=0o755)
    env = environment(TAPESTRY_CACHE=str(cache))
    said = cache_of(str(STRANGER), env=env, cwd=reachable)
    assert f"cannot write the cache {cache}: Permission denied" in said
    assert "TAPESTRY_CACHE" in said
    (cache / "base").mkdir()
    assert cache_of(str(STRANGER), env=env, cwd=reachable) == str(cache)
    cache.chmod(0o700)
    assert "Permission denied" in cache_of(str(STRANGER), env=env, cwd=reachable)


def test_the_cache_folder_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPESTRY_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TAPESTRY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tapestry"


def _build(folder: Path) -> None:
    (folder / "file").write_text("whole")


def test_a_folder_is_built_once_and_readable_by_others(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        _build(folder)

    cache = tmp_path / "deep" / "cache"
    before = os.umask(0o077)
    try:
        first = cached(cache, "base-1", build)
    finally:
        os.umask(before)
    assert cached(cache, "base-1", build) == first == cache / "base-1"
    assert len(built) == 1
    assert (first / "file").read_text() == "whole"
    assert first.stat().st_mode & 0o777 == 0o755
    assert cached(cache, "base-2", build) != first


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt(), ValueError("bug")]
)
def test_a_build_that_fails_leaves_nothing_under_its_name(
    tmp_path: Path, error: BaseException
) -> None:
    def build(folder: Path) -> None:
        _build(folder)
        raise error

    with pytest.raises((ResourceError, type(error))):
        cached(tmp_path, "base", build)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.EDQUOT, "make room there"),
        (errno.EACCES, "make it a folder of yours"),
    ],
)
def test_a_cache_that_cannot_be_written_names_the_repair(
    tmp_path: Path, number: int, way: str
) -> None:
    def build(_: Path) -> None:
        raise OSError(number, "why")

    with refused(ResourceError, "cache-unwritable", match=f"{tmp_path}: why; {way}"):
        cached(tmp_path, "base", build)


def test_concurrent_builds_of_a_cached_folder_give_one_whole_folder(
    tmp_path: Path,
) -> None:
    both = threading.Barrier(4)

    def build(folder: Path) -> None:
        _build(folder)
        both.wait(timeout=120)  # all have built before the first one is done

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: cached(tmp_path, "base", build), range(4)))
    assert found == {tmp_path / "base"}
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert (tmp_path / "base" / "file").read_text() == "whole"


def test_a_file_under_the_name_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("somebody's")
    with refused(ResourceError, "cache-unwritable"):
        cached(tmp_path, "base", _build)
    assert (tmp_path / "base").read_text() == "somebody's"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
