"""Whoever is not the owner of a party's folder writes nothing there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry.storage.folder_owner import require_own_folder
from tests.support.command_table import commands
from tests.support.commands import tapestry
from tests.support.founding_place import Place, ok

_OTHER = 65_533
_READING = {
    *("coordinator status", "coordinator bundle", "coordinator backup"),
    *(
        "node status",
        "node check",
        "node data check",
        "node budget",
        "node egress",
        "node backup",
    ),
    *("node bundle", "node export"),
}


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Give a folder to another user; without the right to, be another user."""

    def give(folder: Path) -> None:
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, _OTHER, _OTHER, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: _OTHER)

    return give


def test_the_own_folder_and_one_that_is_not_there_pass(tmp_path: Path) -> None:
    require_own_folder(tmp_path)
    require_own_folder(tmp_path / "new")


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, give_away: Callable[[Path], None]
) -> None:
    give_away(tmp_path)
    with pytest.raises(ConfigError, match="uid 65533") as caught:
        require_own_folder(tmp_path)
    assert caught.value.code == "folder-of-another-user"
    assert str(tmp_path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="ONLY THE SUPERUSER CAN BE ANOTHER USER")
def test_a_user_is_refused_in_a_folder_of_the_superuser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.chdir(tmp_path)
    os.seteuid(_OTHER)
    try:
        with pytest.raises(ConfigError, match=r"\. belongs to user root \(uid 0\)"):
            require_own_folder(Path())
    finally:
        os.seteuid(0)


def test_each_writing_command_is_refused_and_writes_nothing(
    tmp_path: Path, give_away: Callable[[Path], None]
) -> None:
    place = Place.make(tmp_path / "place")
    ok(place.coordinator_init())
    place.node("nl").mkdir(parents=True, exist_ok=True)
    folder, node, file = place.coordinator, place.node("nl"), tmp_path / "file"
    file.write_text("text\n", "utf-8")
    give_away(folder)
    give_away(node)
    before = place.files()
    writing: list[tuple[object, ...]] = [
        (
            *("coordinator", "init", folder, "--federation", "rivers"),
            *("--address", "rivers.example:443", "--base", "tiny"),
        ),
        ("coordinator", "charter", folder, file),
        ("coordinator", "open", folder, file),
        ("coordinator", "plan", folder, "run-1", "--held-out", tmp_path),
        ("coordinator", "run", folder),
        ("coordinator", "submit", folder, file),
        ("coordinator", "end", folder, "run-1"),
        ("coordinator", "retry", folder, "run-1"),
        ("coordinator", "renew", folder),
        ("coordinator", "enroll", folder, file),
        ("coordinator", "restore", file, folder),
        ("coordinator", "recover", folder, "--from", file, "--trust", file),
        ("node", "init", node, "--invite", file, "--data", file),
        ("node", "join", node, file),
        ("node", "run", node),
        ("node", "restore", file, node),
        ("node", "pause", node),
        ("node", "resume", node),
        ("node", "leave", node),
        ("node", "submit", node, file),
        ("node", "rotate", node, "node"),
        ("node", "data", "withdraw", node, "--keys", file),
        ("node", "data", "exchange", node),
        ("governance", "accept", file, "--node", node),
        ("witness", "init", node, "--name", "archive"),
        ("witness", "run", node),
        ("witness", "sign", node, "--log", file, "-o", file),
    ]
    for words in writing:
        done = tapestry(*words)
        assert done.exit_code == 64, (words, done.stderr)
        assert "[folder-of-another-user]" in done.stderr, (words, done.stderr)
        assert done.stderr.count("\n") == 1
    assert place.files() == before
    all_of_them = {
        name.removeprefix("tapestry ")
        for name, command in commands()
        if any(each.name == "folder" for each in command.params)
    }
    tried = {" ".join(map(str, words[: 2 + ("data" in words)])) for words in writing}
    assert tried - {"governance accept"} == all_of_them - _READING


def test_reading_a_folder_of_another_user_stays_possible(
    tmp_path: Path, give_away: Callable[[Path], None]
) -> None:
    """Of whoever may: the superuser looks at a service without stopping it."""
    place = Place.make(tmp_path / "place")
    ok(place.coordinator_init())
    give_away(place.coordinator)
    done = tapestry("coordinator", "status", place.coordinator)
    assert "[not-founded]" in done.stderr  # the next step, and not whose folder it is
