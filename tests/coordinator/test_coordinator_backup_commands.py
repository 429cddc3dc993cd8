"""``tapestry coordinator backup`` and ``restore`` as an operator types them."""

import json
from pathlib import Path

from tests.coordinator.conftest import Found
from tests.support.commands import tapestry


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
