"""Calls of Flower's programs, and errors of those that are missing or fail."""

import os
import sys
from pathlib import Path

import pytest

from tapestry.errors import ResourceError
from tapestry_coordinator.superlink import flwr_command
from tapestry_coordinator.superlink.flwr_command import flwr, one_line, program
from tests.support.refusals import refused


def test_a_program_that_is_missing_comes_from_the_source_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not from an index, where a stranger could take the name."""
    monkeypatch.setenv("PATH", str(tmp_path))
    remedy = r"no nothing; .* pip install '\.\[demo\]'"
    with refused(ResourceError, "package-missing", match=remedy):
        program("nothing")


def test_a_framed_error_becomes_one_line() -> None:
    framed = "Usage: x\n╭─ Error ─────╮\n│ No such run │\n╰─────────────╯\n"
    assert one_line(framed) == "No such run"
    assert one_line("\n \n") == "no message"


def test_a_call_without_an_answer_in_time_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "flwr"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(flwr_command, "_SECONDS", 0.1)
    with refused(ResourceError, "flwr-unresponsive", match="flwr list"):
        flwr(["list"], environment=dict(os.environ))


@pytest.mark.slow
def test_a_call_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    with refused(
        ResourceError, "flwr-failed", match=r"^flwr list failed: .*nowhere[^\n]*$"
    ):
        flwr(["list", "nowhere"], environment=environment)
