"""The charter and what names its members."""

import pytest

from tapestry_governance.events.federation_events import roster_digest
from tests.support.log_world import World, changed


def test_a_charter_is_the_origin_of_its_log() -> None:
    world = World()
    assert world.charter().origin == world.log_key.name


def test_a_roster_is_named_by_names_and_node_keys_alone() -> None:
    members = World().members()
    first, second, *rest = members
    same = (first.model_copy(update={"community": second.community}), second, *rest)
    assert roster_digest(same) == roster_digest(members)
    other = (first.model_copy(update={"node": second.node}), second, *rest)
    assert roster_digest(other) != roster_digest(members)
    assert roster_digest(members[1:]) != roster_digest(members)


def test_the_coordinator_is_no_member() -> None:
    charter = World().charter()
    renamed = charter.coordinator.model_copy(update={"name": "fr"})
    with pytest.raises(ValueError, match="no member"):
        changed(charter, coordinator=renamed)
