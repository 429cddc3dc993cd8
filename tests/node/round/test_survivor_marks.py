"""Marks of uploads: read off the manifest, and read back as they were written."""

from tapestry.protocol.round_manifest import Participant
from tapestry_node.round.survivor_marks import UploadMark
from tests.support.plans import round_manifest

NAMES = ("a.example", "b.example", "c.example", "d.example")


def test_a_mark_is_read_back_as_it_was_written() -> None:
    manifest = round_manifest([Participant(name=name, key="") for name in NAMES])
    mark = UploadMark.of(manifest)
    assert mark.participants == NAMES
    assert UploadMark.parse(mark.body()) == mark
