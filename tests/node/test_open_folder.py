"""What a node needs to say who it is is opened whole, or not at all."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError, TapestryError
from tapestry_node.open_folder import OpenFolder, Progress
from tests.support.node_folders import NAME, change
from tests.support.refusals import refused


def test_a_folder_that_fails_to_open_is_held_by_nobody(used: Path) -> None:
    trust = (used / "trust-policy.txt").read_bytes()
    (used / "trust-policy.txt").write_bytes(b"none")
    with pytest.raises(TapestryError):
        OpenFolder.open(used)
    (used / "trust-policy.txt").write_bytes(trust)
    change(used, {"name": "fr"})
    with refused(ConfigError, "key-of-another-node"):
        OpenFolder.open(used)
    change(used, {"name": NAME})
    folder = OpenFolder.open(used)
    with refused(ConfigError, "folder-in-use"):
        OpenFolder.open(used)
    folder.close()


def test_a_node_at_fault_rests_as_long_as_nothing_else_is_said() -> None:
    assert Progress().rests
    assert Progress().lacks is None
