"""``tapestry coordinator backup`` and ``restore`` as an operator types them."""

import json
from pathlib import Path

import pytest

from tapestry_governance.events.round_events import RoundOpened
from tests.coordinator.conftest import Found
from tests.coordinator.test_log_copies import change, mirror_of
from tests.coordinator.test_recovered_folder import folder_of
from tests.support.commands import Result, tapestry
from tests.support.founding_place import refuses
from tests.support.log_world import World


def test_a_backup_is_made_and_restored_with_words_of_what_is_next(
    found: Found, tmp_path: Path
) -> None:
    folder, place, again = found().coordinator, tmp_path / "backup", tmp_path / "again"
    done = tapestry("coordinator", "backup", folder, "-o", place)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"backup  {place}: ")
    done = tapestry("coordinator", "restore", place, again)
    assert done.exit_code == 0, done.stderr
    assert f"restored  {again}: simulated as of 20" in done.stdout
    for said in ("put keys/ back", "coordinator renew", "coordinator run"):
        assert said in done.stdout
    done = tapestry("coordinator", "restore", place, again)
    assert done.exit_code == 64
    assert done.stderr.endswith("[restore-folder-taken]\n")


def test_both_print_an_object_for_machines(found: Found, tmp_path: Path) -> None:
    folder, place, again = found().coordinator, tmp_path / "backup", tmp_path / "again"
    done = tapestry("coordinator", "backup", folder, "-o", place, "--json")
    assert json.loads(done.stdout)["backup"] == str(place)
    done = tapestry("coordinator", "restore", place, again, "--json")
    assert json.loads(done.stdout)["folder"] == str(again)


@pytest.fixture
def lost(tmp_path: Path) -> World:
    """A world, a member's copy of its log, its trust policy, and a new folder."""
    world = World().found()
    mirror_of(world, tmp_path / "view.db")
    (tmp_path / "trust-policy.txt").write_bytes(world.trust.encode())
    folder_of(world, tmp_path / "new")
    return world


def recover(place: Path, **changes: Path) -> Result:
    """Type the command, with other files than those of ``lost``."""
    files = {"--from": place / "view.db", "--trust": place / "trust-policy.txt"}
    for name, path in changes.items():
        files[f"--{name.strip('_')}"] = path
    words = [word for pair in files.items() for word in pair]
    return tapestry("coordinator", "recover", place / "new", *words)


def test_a_log_is_recovered_in_words_and_for_machines(
    lost: World, tmp_path: Path
) -> None:
    folder, copy = tmp_path / "new", tmp_path / "view.db"
    words = ("coordinator", "recover", folder, "--from", copy)
    assert tapestry(*words).exit_code == 64  # whose word counts is to be said
    done = recover(tmp_path)
    assert done.exit_code == 0, done.stderr
    assert f"{len(lost.entries)} entries, from {copy};" in done.stdout
    assert f"give {folder / 'tapestry.invite'} to a member" in done.stdout
    assert "was open" not in done.stdout
    trust = tmp_path / "trust-policy.txt"
    said = json.loads(tapestry(*words, "--trust", trust, "--json").stdout)
    assert (said["was_there"], said["is_named"]) == (True, False)
    assert said["not_enrolled"] == ["de", "es", "fr", "id"]
    assert said["open_round"] is None
    kept = tmp_path / "kept"
    kept.write_bytes(lost.note(lost.entries[:7]))
    assert recover(tmp_path, checkpoint=kept).exit_code == 0


def test_a_round_that_was_open_is_told(lost: World, tmp_path: Path) -> None:
    lost.add(RoundOpened(manifest=lost.manifest()))
    (tmp_path / "view.db").unlink()
    mirror_of(lost, tmp_path / "view.db")
    assert "round 1 of 'run' was open, and is aborted" in recover(tmp_path).stdout


@pytest.mark.parametrize(
    ("option", "text", "status", "code", "said"),
    [
        ("from_", None, 64, "file-missing", "name a member's view.db, or the folder"),
        ("from_", b"other", 1, "database-damaged", "take the copy of another member"),
        ("trust", None, 64, "file-unreadable", "No such file"),
        ("trust", b"other", 1, "trust-policy-malformed", "a member's trust-policy.txt"),
        ("checkpoint", b"other", 1, "note-malformed", "--checkpoint names none"),
        ("key", None, 64, "file-missing", "by tapestry coordinator init"),
        ("settings", None, 64, "file-missing", "by tapestry coordinator init"),
    ],
)
@pytest.mark.usefixtures("lost")
def test_an_error_of_recover_is_a_line_with_value_rule_and_remedy(
    tmp_path: Path,
    option: str,
    text: bytes | None,
    status: int,
    code: str,
    said: str,
) -> None:
    folder = tmp_path / "new"
    own = {"key": folder / "keys" / "log.key", "settings": folder / "coordinator.toml"}
    path = own.get(option, tmp_path / "other")
    if text is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(text)
    done = recover(tmp_path, **({} if option in own else {option: path}))
    line = refuses(done, status, code)
    assert said in line
    assert option == "checkpoint" or str(path) in line or f"--{option}" in line
    assert not (folder / "log").exists()


@pytest.mark.usefixtures("lost")
def test_a_copy_that_does_not_verify_is_named(tmp_path: Path) -> None:
    other, folder = tmp_path / "view.db", tmp_path / "no-bundle"
    change(other, "DELETE FROM accepted")
    folder.mkdir()
    for place, code in ((other, "checkpoint-missing"), (folder, "manifest-missing")):
        line = refuses(recover(tmp_path, from_=place), 3, code)
        assert f"{place} cannot be gone on from; take the copy of another" in line
