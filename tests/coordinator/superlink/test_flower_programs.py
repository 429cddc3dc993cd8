"""Flower's programs: where they are, and what they say in one line."""

from pathlib import Path

import pytest

from tapestry.errors import ResourceError
from tapestry_coordinator.superlink.flower_programs import one_line, program
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
