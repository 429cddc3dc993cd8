"""Commands, environments and folders that nobody foresaw: no traceback, ever.

The seed is the commit's hash, so that each commit tries other cases. A failure names
its seed and number; to have it again::

    FUZZ_SEED=… FUZZ_CASE=… python -m pytest tests/scenarios/test_fuzz_commands.py

The choices of a case follow from seed and number alone. Keys and signatures of the
folders are drawn anew each time, so what lies at a damaged place may differ.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.workloads.language.base_models import open_base
from tests.fuzzing.cases import draw_case
from tests.fuzzing.draws import Draw, commit_seed
from tests.fuzzing.runs import run_apart, run_here
from tests.fuzzing.specimens import Specimens, make_specimens
from tests.fuzzing.verdicts import digest_tree, faults
from tests.support.federation import Base

HERE, APART = 2000, 100  # FUZZ_CASES: another number here, for a night
PARTS = 8  # for as many workers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that processes without rights may enter."""
    memory = os.environ.get("PYTEST_DEBUG_TEMPROOT")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def specimens(place: Path, base: Base) -> Specimens:
    open_base("tiny", cache=place / "cache")
    return make_specimens(place / "specimens", base)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("apart", [False, True], ids=["here", "apart"])
def test_every_command_keeps_to_the_rules(
    place: Path, specimens: Specimens, *, apart: bool, part: int
) -> None:
    seed, test = commit_seed(), "apart" if apart else "here"
    count = int(os.environ.get("FUZZ_CASES", HERE)) * (APART if apart else HERE) // HERE
    given = os.environ.get("FUZZ_CASE")
    cases = [int(given)] if given else range(count)
    found = [
        f"FUZZ_SEED={seed} FUZZ_CASE={number} pytest {__file__} -k {test}\n{said}"
        for number in cases
        if number % PARTS == part
        and (said := attempt(Draw(seed, apart, number), place, specimens, apart=apart))
    ]
    shown = "\n\n".join(found[:12])
    assert not found, f"{len(found)} cases of seed {seed}\n{shown}"


def attempt(draw: Draw, place: Path, specimens: Specimens, *, apart: bool) -> str:
    """Run one case; return in what it did not keep to the rules, and how."""
    files, work = place / "files", place / "work"
    files.mkdir()
    work.mkdir()
    try:
        case = draw_case(draw, place=files, specimens=specimens, apart=apart)
        before = digest_tree(case.folder)
        run = run_apart if apart else run_here
        outcome = run(case, work, cache=place / "cache")
        found = faults(case, outcome, secrets=specimens.secrets, before=before)
    finally:
        for folder in (files, work):
            for path, _, _ in os.walk(folder):
                Path(path).chmod(0o700)  # also what nobody may enter
            shutil.rmtree(folder, ignore_errors=True)
    return f"{found}\n{case}\n{outcome}" if found else ""
