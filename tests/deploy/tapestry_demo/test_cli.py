"""``tapestry demo`` on the command line, and ``make demo``, which calls it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapestry_demo.demo_command import DemoOptions
from tests.support.commands import tapestry

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


@pytest.mark.parametrize(
    ("words", "out", "options", "resume"),
    [
        ([], None, DemoOptions(), False),
        (
            ["--out", "a b", "--engine", "flower", "--base", "tiny", "--threads", "2"],
            Path("a b"),
            DemoOptions(engine="flower", base="tiny", threads=2),
            False,
        ),
        (["--resume", "--references"], None, DemoOptions(references=True), True),
    ],
    ids=str,
)
def test_options_reach_the_demo_as_they_were_given(
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    out: Path | None,
    options: DemoOptions,
    resume: bool,
) -> None:
    called: list[tuple[Any, ...]] = []

    def note(out: Path | None, options: DemoOptions, *, resume: bool) -> None:
        called.append((out, options, resume))

    monkeypatch.setattr("tapestry_demo.demo_command.start_or_resume", note)
    assert tapestry("demo", *words).exit_code == 0
    assert called == [(out, options, resume)]


@pytest.mark.parametrize(
    "words",
    [["--engine", "horse"], ["--threads", "many"], ["--out"], ["--fast"], ["demo"]],
    ids=str,
)
def test_words_that_are_no_options_of_a_demo_are_wrong_usage(words: list[str]) -> None:
    result = tapestry("demo", *words)
    assert result.exit_code == 64
    assert "tapestry demo" in result.stderr


def test_help_names_each_option_and_loads_no_model() -> None:
    code = (
        "import sys; from tapestry_demo.cli import app\n"
        "try:\n    app.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    for option in (
        "--out",
        "--engine",
        "--base",
        "--threads",
        "--references",
        "--resume",
    ):
        assert option in done.stdout
