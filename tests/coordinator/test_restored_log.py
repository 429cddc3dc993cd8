"""A restored log waits until every member has told how much of it it mirrors."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.errors import IncompleteError, InconsistentLog
from tapestry.protocol.messages import (
    Identity,
    Kind,
    Message,
    encode_message,
    expect_body,
)
from tapestry_coordinator import restored_log, service
from tapestry_coordinator.led_log import MARKER, open_led_log
from tapestry_coordinator.restored_log import hear_members
from tests.coordinator.conftest import Found
from tests.scenarios.test_leaving import exit_of
from tests.support.federation import Deliver, Federation
from tests.support.refusals import refused

pytestmark = pytest.mark.slow


class Ended(BaseException):
    pass


@pytest.fixture
def restored(found: Found, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """A federation between two runs whose log may be an older one."""
    monkeypatch.setattr(restored_log, "_LOOK_SECONDS", 0.0)
    federation = found()
    federation.run()
    (federation.coordinator / MARKER).touch()
    return federation


def hear(federation: Federation) -> None:
    hear_members(federation.coordinator, federation.wire)


def says(**changed: object) -> Callable[[str, Message, Deliver], Message]:
    """Let a member say something else of itself."""

    def fault(_name: str, request: Message, deliver: Deliver) -> Message:
        body = expect_body(deliver(request), Identity)
        return encode_message(body.model_copy(update=changed))

    return fault


def test_without_a_mark_nobody_is_asked(found: Found) -> None:
    federation = found()
    hear(federation)
    assert federation.wire.log == []


def test_the_mark_goes_when_all_have_told(restored: Federation) -> None:
    size = len(restored.entries())
    restored.wire.log.clear()
    hear(restored)
    assert not (restored.coordinator / MARKER).exists()
    assert {each.request.kind for each in restored.wire.log} == {Kind.HELLO}
    assert len(restored.entries()) == size


def test_no_other_way_opens_the_log(restored: Federation) -> None:
    with refused(IncompleteError, "restored-unheard"):
        open_led_log(restored.coordinator, restored.wire, deadline=1)
    with refused(IncompleteError, "restored-unheard"):
        service.tend_log(restored.coordinator, restored.wire, until=lambda: True)


def test_a_member_that_is_away_is_waited_for(
    restored: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that says nonsense has not told."""
    handler = restored.wire.handlers.pop("fr")
    restored.wire.on("fi", Kind.HELLO, says(checkpoint="garbage"), times=2)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 9:
            restored.wire.handlers["fr"] = handler

    monkeypatch.setattr("tapestry_coordinator.restored_log.time.sleep", sleep)
    hear(restored)
    assert len(slept) >= 10
    assert not (restored.coordinator / MARKER).exists()


def test_a_member_that_mirrors_more_ends_it(restored: Federation) -> None:
    """It has entries that no quorum cosigned: going on would fork the log for it."""
    size = len(restored.entries())
    restored.wire.on("sw", Kind.HELLO, says(size=size + 1), times=9)
    with refused(InconsistentLog, "log-restored", match=f"sw mirrors {size + 1} "):
        hear(restored)
    assert (restored.coordinator / MARKER).exists()


@pytest.fixture
def without_fr(found: Found, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """A federation that a member has left, and whose log may be an older one."""
    monkeypatch.setattr(restored_log, "_LOOK_SECONDS", 0.0)
    federation = found()
    federation.nodes["fr"].store.post(exit_of(federation, "fr"))
    federation.run()
    (federation.coordinator / MARKER).touch()
    return federation


def test_a_member_that_has_left_is_not_waited_for(
    without_fr: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_fr.kill("fr")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 3:
            raise Ended

    monkeypatch.setattr("tapestry_coordinator.restored_log.time.sleep", sleep)
    hear(without_fr)
    assert not (without_fr.coordinator / MARKER).exists()


def test_a_member_that_has_left_is_asked_where_it_is_here(
    without_fr: Federation,
) -> None:
    without_fr.wire.on("fr", Kind.HELLO, says(size=10**6), times=9)
    with refused(InconsistentLog, "log-restored", match="fr mirrors"):
        hear(without_fr)


def test_the_service_asks_before_it_does_anything_else(
    restored: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def ask(directory: Path, _grid: object) -> None:
        asked.append(directory)
        raise Ended

    monkeypatch.setattr(service, "hear_members", ask)
    with pytest.raises(Ended):
        service.main(restored.coordinator, restored.wire)
    assert asked == [restored.coordinator]
