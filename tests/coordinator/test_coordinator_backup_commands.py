"""``tapestry coordinator backup`` and ``restore`` as an operator types them."""

import json
from pathlib import Path

from tests.coordinator.conftest import Found
from tests.coordinator.test_log_copies import mirror_of
from tests.coordinator.test_recovered_folder import folder_of
from tests.support.commands import tapestry
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


def test_a_log_is_recovered_in_words_and_for_machines(tmp_path: Path) -> None:
    world = World().found()
    copy, trust = mirror_of(world, tmp_path / "view.db"), tmp_path / "trust-policy.txt"
    trust.write_bytes(world.trust.encode())
    folder = folder_of(world, tmp_path / "new")
    words = ("coordinator", "recover", folder, "--from", copy)
    assert tapestry(*words).exit_code == 64  # whose word counts is to be said
    done = tapestry(*words, "--trust", trust)
    assert done.exit_code == 0, done.stderr
    assert f"{len(world.entries)} entries, from {copy};" in done.stdout
    assert "governance propose coordinator" in done.stdout
    said = json.loads(tapestry(*words, "--trust", trust, "--json").stdout)
    assert (said["was_there"], said["is_named"]) == (True, False)
    assert said["not_enrolled"] == ["de", "es", "fr", "id"]
    kept = tmp_path / "kept"
    kept.write_bytes(world.note(world.entries[:7]))
    done = tapestry(*words, "--trust", trust, "--checkpoint", kept)
    assert done.exit_code == 0
