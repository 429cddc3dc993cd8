"""The coordinator opens its log once, by the key that its settings name."""

from contextlib import closing

from tapestry.errors import ResourceError
from tapestry_coordinator.led_log import open_led_log
from tests.support.federation import NAMES
from tests.support.federation_fixtures import Found
from tests.support.refusals import refused


def test_an_open_log_knows_the_members_and_lets_nobody_else_in(found: Found) -> None:
    federation = found()
    with closing(
        open_led_log(federation.coordinator, federation.wire, deadline=5)
    ) as log:
        assert tuple(sorted(log.publisher.state.members)) == NAMES
        assert log.members.nodes() == sorted(NAMES)
        with refused(ResourceError, "folder-in-use"):
            open_led_log(federation.coordinator, federation.wire, deadline=5)
    with closing(open_led_log(federation.coordinator, federation.wire, deadline=5)):
        pass
