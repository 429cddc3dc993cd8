"""The cache is found, made whole or not at all, or refused with the way out."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tapestry.cache import cache_folder
from tests.support.processes import (
    STRANGER,
    as_root,
    environment,
    reachable_folder,
    run,
)

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
def test_a_cache_that_cannot_be_is_one_line_with_the_variable(
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
def test_a_user_that_nobody_knows_is_told_to_name_a_cache(
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
