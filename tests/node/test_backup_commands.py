"""``tapestry node backup``, ``restore`` and ``bundle`` as an operator types them."""

import json
from pathlib import Path

from tests.support.commands import tapestry
from tests.support.node_folders import NAME, run


def test_a_backup_is_made_and_restored_with_words_of_what_is_next(
    used: Path, tmp_path: Path
) -> None:
    place, folder = tmp_path / "backup", tmp_path / "restored"
    done = run("backup", used, "-o", str(place))
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"backup  {place}: 8 files, without keys and records\n"
    done = tapestry("node", "restore", place, folder)
    assert done.exit_code == 0, done.stderr
    assert f"restored  {folder}: {NAME} as of 20" in done.stdout
    assert f"put keys/ and the records back into {folder}" in done.stdout
    assert "tapestry node run" in done.stdout
    assert run("budget", folder).stdout == run("budget", used).stdout
    done = tapestry("node", "restore", place, folder)
    assert done.exit_code == 64
    assert done.stderr.endswith("[restore-folder-taken]\n")


def test_both_print_an_object_for_machines(used: Path, tmp_path: Path) -> None:
    place, folder = tmp_path / "backup", tmp_path / "restored"
    made = json.loads(run("backup", used, "-o", str(place), "--json").stdout)
    assert made == {"backup": str(place), "files": 8}
    done = tapestry("node", "restore", place, folder, "--json")
    assert json.loads(done.stdout)["folder"] == str(folder)
    bundle = tmp_path / "bundle"
    done = run("bundle", used, "-o", str(bundle), "--json")
    assert json.loads(done.stdout) == {"bundle": str(bundle)}


def test_check_says_that_a_restored_node_waits(used: Path, tmp_path: Path) -> None:
    place, folder = tmp_path / "backup", tmp_path / "restored"
    run("backup", used, "-o", str(place))
    tapestry("node", "restore", place, folder)
    said = run("check", folder).stdout
    assert "\nwarning " in said
    assert "[restored-unsettled]" in said


def test_a_bundle_of_the_own_mirror_verifies(used: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    done = run("bundle", used, "-o", str(bundle))
    assert done.exit_code == 0, done.stderr
    assert f"tapestry audit verify {bundle}" in done.stdout
    audit = tapestry("audit", "verify", bundle)
    assert audit.exit_code == 0, audit.stdout + audit.stderr
