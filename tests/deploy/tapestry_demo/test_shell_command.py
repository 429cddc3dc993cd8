"""A printed command is found and understood by the shell that it is pasted into."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapestry_demo import shell_command


@pytest.mark.parametrize(
    "path", ["plain", "with space", "-dash", "quo'te", 'dou"ble', "$HOME", "ü;ls", "~"]
)
def test_a_line_pastes_into_a_shell(path: str) -> None:
    """A shell hands each word over as it is: here to a stand-in for the program."""
    line = shell_command.command("audit", "verify", Path(path))
    program = shell_command.program()
    assert line.startswith(program)
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line.removeprefix(program)}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    expected = f"./{path}" if path.startswith("-") else path
    assert words == ["audit", "verify", expected]


def test_the_program_is_named_by_what_works_from_here(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{shell_command.command('--version')}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("tapestry ")
    bin_folder = here / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert shell_command.command() == ".venv/bin/python -m tapestry"
    (bin_folder / "tapestry").touch(mode=0o755)
    assert shell_command.command() == ".venv/bin/tapestry"
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert shell_command.command() == str(bin_folder / "tapestry")
    monkeypatch.setenv("PATH", str(bin_folder))
    assert shell_command.command() == "tapestry"
    monkeypatch.setenv("PATH", os.defpath)
