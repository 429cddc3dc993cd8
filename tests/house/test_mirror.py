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
    lacking = {module for module in MODULES if not (ROOT / file_of(module)).is_file()}
    assert lacking == set(), "write the test file of the module"


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
