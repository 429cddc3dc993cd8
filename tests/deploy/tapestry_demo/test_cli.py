"""``tapestry demo`` on the command line, and ``make demo``, which calls it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "demo"),
        (["OUT=a b"], 'demo --out "a b"'),
        (["RESUME=1"], "demo --resume"),
        (["RESUME=0"], "demo"),
        (
            ["OUT=x", "RESUME=1", "ARGS=--base tiny"],
            'demo --out "x" --resume --base tiny',
        ),
    ],
)
def test_make_names_a_folder_only_if_it_was_given_one(
    words: list[str], expected: str
) -> None:
    command = ["make", "-s", "-n", "-C", str(ROOT), "demo", "READY=", "PYTHON=false"]
    # A make that runs these tests hands its own variables down.
    ours = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS", "OUT", "RESUME"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [*command, *words], env=kept, capture_output=True, text=True, check=True
    )
    (line,) = done.stdout.strip().splitlines()
    assert line.strip().endswith(f"/bin/tapestry {expected}")
