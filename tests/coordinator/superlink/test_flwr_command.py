"""Flower's programs are found, or it is said where to get them."""

from pathlib import Path

import pytest

from tapestry.errors import ResourceError
from tapestry_coordinator.superlink.flwr_command import program


def test_a_program_that_is_missing_comes_from_the_source_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not from an index, where anybody could take a name."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match=r"no nothing; .* pip install '\.\[demo\]'"):
        program("nothing")
