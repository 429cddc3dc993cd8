"""``node init`` and ``join`` refuse files that are none, and ask nobody by chance."""

from pathlib import Path

import pytest

from tests.support.commands import tapestry
from tests.support.founders import invitation_of
from tests.support.founding_place import Place, broken, refuses
from tests.support.log_world import World


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
