"""``node init`` and ``join`` refuse files that are none, and ask nobody by chance."""

import shutil
from pathlib import Path

import pytest

from tapestry_node.settings import NodeSettings
from tests.support.commands import tapestry
from tests.support.founders import invitation_of
from tests.support.founding_place import Place, broken, ok, refuses
from tests.support.log_world import World
from tests.support.model_folders import build


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place.make(tmp_path / "place")
    made.coordinator.mkdir()
    return made


CASES = [
    ("missing", 64, "file-unreadable"),
    ("fifo", 1, "file-not-plain"),
    ("folder", 1, "file-not-plain"),
    ("garbage", 1, "json-invalid"),
    ("too large", 1, "file-too-large"),
]


@pytest.mark.parametrize(("what", "status", "code"), CASES)
def test_an_invitation_that_is_none_makes_nothing(
    place: Place, what: str, status: int, code: str
) -> None:
    broken(place.invitation, what)
    result = place.node_init("sueden")
    assert "rivers" in refuses(result, status, code)
    assert not place.node("sueden").exists()


@pytest.mark.parametrize(("what", "status", "code"), CASES)
def test_a_charter_that_is_none_joins_nothing(
    place: Place, what: str, status: int, code: str
) -> None:
    broken(place.charter, what)
    words = ("node", "join", place.root / "sueden", place.charter)
    assert "rivers" in refuses(tapestry(*words), status, code)


@pytest.mark.parametrize("text", ["", "x", "ü", "a+b+c", "a/root+00000000+AAAA"])
def test_a_public_root_key_that_is_none_is_refused(place: Place, text: str) -> None:
    place.invitation.write_bytes(invitation_of(World().policy()).encode())
    path = place.root / "root.pub"
    path.write_text(text, "utf-8")
    result = place.node_init("sueden", "--root", path)
    assert "governance key --name sueden" in refuses(result, 64, "key-file-invalid")
    assert not place.node("sueden").exists()


def test_a_base_of_ones_own_is_named_by_each_machine(place: Place) -> None:
    """The digest decides; the coordinator's path is nothing to a node."""
    theirs = build(place.root / "mymodel", "llama")
    ok(place.coordinator_init(base=str(theirs)))
    ours = theirs.rename(place.root / "elsewhere")
    before = place.files()
    said = refuses(place.node_init("sueden"), 64, "base-unknown")
    assert "name your own copy with --base" in said
    other = place.node_init("sueden", "--base", "tiny")
    assert "with --base" in refuses(other, 64, "base-differs")
    missing = place.node_init("sueden", "--base", place.root / "nowhere")
    refuses(missing, 64, "base-unknown")
    assert place.files() == before
    ok(place.node_init("sueden", "--base", ours))
    settings = NodeSettings.read(place.node("sueden") / "node.toml")
    assert settings.base == str(ours)
    ok(place.node_init("sueden"))
    made = place.files()
    refuses(place.node_init("sueden", "--base", "tiny"), 64, "base-differs")
    assert place.files() == made
    assert NodeSettings.read(place.node("sueden") / "node.toml") == settings


def test_a_folder_with_its_records_can_move(place: Place) -> None:
    """As into the folder of a service, or onto the volume of a container."""
    ok(place.coordinator_init())
    node = place.node("sueden")
    shutil.copytree(place.data("sueden"), node / "data")
    ok(place.node_init("sueden", "--data", node / "data"))
    assert NodeSettings.read(node / "node.toml").data == "data"
    ok(place.node_init("sueden", "--data", node / "data"))
    moved = node.rename(place.root / "moved")
    said = tapestry("node", "check", moved).stdout
    assert "60 records" in said
    outside = place.data("nordland")
    ok(place.node_init("nordland", "--data", outside))
    named = NodeSettings.read(place.node("nordland") / "node.toml").data
    assert named == str(outside)
