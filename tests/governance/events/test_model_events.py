"""Releases and adapters as the log names them."""

import pytest

from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tests.support.log_world import World, changed


@pytest.fixture(scope="module")
def world() -> World:
    return World().grow()


def test_an_adapter_promises_epsilon_and_delta_or_neither(world: World) -> None:
    adapter = world.adapter(2)
    bare = changed(adapter, epsilon=None, target_delta=None)
    assert AdapterPublished.decode(bare.encode()) == bare
    for change in ({"epsilon": None}, {"target_delta": None}):
        with pytest.raises(ValueError, match="one promise, or none"):
            changed(adapter, **change)


@pytest.mark.parametrize("name", ["base-01", "base", "release-1", "base-1000000"])
def test_a_release_has_a_number(world: World, name: str) -> None:
    release = world.folded.releases["base-2"]
    assert ReleasePublished.decode(release.encode()) == release
    with pytest.raises(ValueError, match="name"):
        changed(release, name=name)
