"""``tapestry demo`` begins, goes on or refuses, and leaves nothing half begun."""

from pathlib import Path

import pytest

from tapestry_demo.demo_folder import (
    FINISHED,
)
from tests.support.commands import tapestry
from tests.support.demo_folders import begun


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (["--out", "full"], 64, "full is not empty; choose another folder"),
        (["--out", "begun"], 64, "demo --out begun --resume"),
        (["--out", "done"], 64, "a finished demo lies there"),
        (["--out", "full/file"], 64, "full/file is a file"),
        (["--out", "full/file/x"], 3, "cannot make full/file/x: Not a directory"),
        (["--out", "new", "--base", "gone"], 64, "no base 'gone'"),
        (["--out", "a:b", "--engine", "flower"], 64, "holds ':'"),
        (["--resume"], 64, "no unfinished demo"),
        (["--resume", "--out", "full"], 64, "holds no demo to go on with"),
        (["--resume", "--out", "new"], 64, "holds no demo to go on with"),
        (["--resume", "--out", "full/file"], 64, "holds no demo to go on with"),
        (["--resume", "--out", "begun", "--base", "smollm2"], 64, "with --base tiny"),
        (["--resume", "--out", "begun", "--engine", "flower"], 64, "leave --engine"),
        (["--threads", "-1"], 64, "from 0 to 1024"),
        (["extra"], 64, "extra"),
    ],
    ids=str,
)
def test_a_demo_that_cannot_start_says_why_and_leaves_no_trace(
    here: Path, words: list[str], status: int, named: str
) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    begun("begun", "prepare")
    begun("done", FINISHED)
    before = sorted(map(str, here.rglob("*")))
    result = tapestry("demo", *words)
    assert (result.exit_code, named in result.stderr) == (status, True), result.stderr
    said = [li for li in result.stderr.splitlines() if li.startswith("tapestry:")]
    assert len(said) == 1
    assert sorted(map(str, here.rglob("*"))) == before
