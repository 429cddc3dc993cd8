"""Each module of the product has a test file that a newcomer finds by its path.

``deploy/tapestry_demo/report/odds.py`` is tested in
``tests/deploy/tapestry_demo/report/test_odds.py``. A role's folder is left out where it
says nothing: ``node/tapestry_node/budget/ledger.py`` has ``tests/node/budget/...``.
"""

from pathlib import Path

import pytest

from tests.house.test_house import ROOT, SOURCES

# The packages that ``tests`` holds under the name of their folder alone.
SHORT = {"tapestry_node", "tapestry_coordinator", "tapestry_governance"}
WITHOUT_TESTS = {"__init__", "__main__"}  # they join what others hold
# Modules without a file of their own, by the reason. The list only shrinks: a module
# that is new has its file from the start.
LACKING: dict[str, tuple[str, ...]] = {
    "tested from test_round, test_run, test_log_publisher and the scenarios": (
        "coordinator/tapestry_coordinator/closing_event.py",
        "coordinator/tapestry_coordinator/spot_check_responder.py",
    ),
    "tested from test_verify, test_bundle, test_writer, test_replay and the commands": (
        "governance/tapestry_governance/audit/privacy_accounts.py",
        "governance/tapestry_governance/audit/published_folders.py",
        "governance/tapestry_governance/cli/folder_checks.py",
        "governance/tapestry_governance/log/database.py",
        "governance/tapestry_governance/log/tile_writer.py",
    ),
}


def file_of(module: str) -> str:
    """Return where the tests of a module are, from the root of the repository."""
    *folders, name = Path(module).parts
    kept = [folder for folder in folders if folder not in SHORT]
    return "/".join(["tests", *kept, f"test_{name}"])


MODULES = {
    path.relative_to(ROOT).as_posix()
    for path in SOURCES
    if path.stem not in WITHOUT_TESTS
}


def test_every_module_has_its_test_file() -> None:
    listed = {module for modules in LACKING.values() for module in modules}
    lacking = {module for module in MODULES if not (ROOT / file_of(module)).is_file()}
    assert lacking - listed == set(), "write the test file of the module"
    assert listed - lacking == set(), "it has a file, or is gone: take it off the list"


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("tapestry/errors.py", "tests/tapestry/test_errors.py"),
        ("tapestry/tlog/note.py", "tests/tapestry/tlog/test_note.py"),
        (
            "node/tapestry_node/budget/ledger.py",
            "tests/node/budget/test_ledger.py",
        ),
        (
            "deploy/tapestry_demo/report/odds.py",
            "tests/deploy/tapestry_demo/report/test_odds.py",
        ),
    ],
)
def test_the_file_of_a_module_has_its_path(module: str, file: str) -> None:
    assert file_of(module) == file


def test_no_two_modules_share_a_file_of() -> None:
    assert len({file_of(module) for module in MODULES}) == len(MODULES) > 100
