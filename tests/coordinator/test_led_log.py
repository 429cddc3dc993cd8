"""The coordinator opens its log once, by the key that its settings name."""

import shutil
from contextlib import closing
from pathlib import Path

from tapestry.errors import ConfigError, IncompleteError, ResourceError
from tapestry_coordinator.barred_keys import read_barred
from tapestry_coordinator.led_log import open_led_log
from tapestry_governance.log.writer import Log
from tests.support.federation import NAMES
from tests.support.federation_fixtures import Found
from tests.support.proposals import new_key
from tests.support.refusals import refused
from tests.support.rotations import rotate


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


def test_a_file_that_is_missing_leaves_the_log_to_the_next(found: Found) -> None:
    federation = found()
    path = federation.coordinator / "keys" / "author.key"
    path.rename(path.with_suffix(".away"))
    with refused(ConfigError, "file-unreadable", match=r"author\.key") as caught:
        open_led_log(federation.coordinator, federation.wire, deadline=5)
    path.with_suffix(".away").rename(path)
    assert caught.traceback  # what it refers to is still there, and holds no lock
    with closing(open_led_log(federation.coordinator, federation.wire, deadline=5)):
        pass


def test_a_log_that_names_another_key_is_not_led(found: Found, tmp_path: Path) -> None:
    federation = found()
    federation.cosign()
    place, key = tmp_path / "log", new_key("simulated.example/log")
    with Log.create(place, key=key) as log:
        log.append(federation.entries())
    shutil.rmtree(federation.coordinator / "log")
    place.rename(federation.coordinator / "log")
    key.save(federation.coordinator / "keys" / "new.key")
    keys = federation.coordinator / "keys"
    (keys / "new.key").replace(keys / "log.key")
    for _ in range(2):  # no lock is left
        with refused(IncompleteError, "coordinator-not-named", match="submit"):
            open_led_log(federation.coordinator, federation.wire, deadline=5)


def test_a_stolen_transport_key_is_barred_while_the_log_is_open(found: Found) -> None:
    federation = found()
    federation.run()
    federation.cosign()
    rotate(federation, NAMES[0], "transport", "compromised")
    enrolled = federation.coordinator / "enrolled"
    with closing(
        open_led_log(federation.coordinator, federation.wire, deadline=5)
    ) as log:
        assert read_barred(enrolled) == frozenset()
        log.publisher.publish(log.members.nodes())
        stolen = set(log.publisher.state.stolen_transports)
        assert stolen
        assert read_barred(enrolled) == stolen
