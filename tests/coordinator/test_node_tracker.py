"""Attendance: the nodes that a pass waits for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.encoding import canonical_json
from tapestry.errors import QuorumError
from tapestry.protocol.messages import Kind, Message
from tapestry_coordinator import node_tracker
from tapestry_coordinator.grid import LocalGrid
from tapestry_coordinator.node_tracker import NodeTracker
from tests.support.gate_models import inputs
from tests.support.refusals import refused

NAMES = ("fi", "fr", "id", "sw")


class Clock:
    """Time that passes in sleep alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(node_tracker, "time", clock)
    return clock


def _answer(name: str) -> Message:
    body = {
        "applied": 0,
        "asks": [],
        "checkpoint": None,
        "held_out": None,
        "name": name,
        "size": 1,
    }
    return Message(kind=Kind.IDENTITY, body=canonical_json(body))


def _tracker(*names: str) -> NodeTracker:
    handlers = {name: lambda _, name=name: _answer(name) for name in names}
    settings: Any = SimpleNamespace(
        deadlines=SimpleNamespace(advertise_keys=60, cosign=5),
        secagg=SimpleNamespace(min_cohort=2),
    )
    publisher: Any = SimpleNamespace(record_mirror_size=lambda *_: None)
    journal: Any = None
    return NodeTracker(
        settings=settings,
        grid=LocalGrid(handlers),
        publisher=publisher,
        journal=journal,
        held_out=Path("held-out"),
        gate=inputs(),
    )


def test_a_pass_with_all_members_online_does_not_wait(clock: Clock) -> None:
    assert _tracker(*NAMES).wait_for_nodes(members=NAMES) == list(NAMES)
    assert clock.now == 0


def test_an_absent_member_is_waited_for_once(clock: Clock) -> None:
    tracker = _tracker("fi", "fr", "id")
    assert tracker.wait_for_nodes(members=NAMES) == ["fi", "fr", "id"]
    assert clock.now >= 60
    before = clock.now
    assert tracker.wait_for_nodes(members=NAMES) == ["fi", "fr", "id"]
    assert clock.now == before


def test_a_member_that_comes_back_is_waited_for_again(clock: Clock) -> None:
    tracker = _tracker("fi", "fr", "id")
    tracker.wait_for_nodes(members=NAMES)
    grid: Any = tracker.grid
    grid.handlers["sw"] = lambda _: _answer("sw")
    before = clock.now
    assert tracker.wait_for_nodes(members=NAMES) == list(NAMES)
    assert clock.now == before
    del grid.handlers["sw"]
    tracker.wait_for_nodes(members=NAMES)
    assert clock.now >= before + 60


def test_below_the_floor_every_pass_waits(clock: Clock) -> None:
    tracker = _tracker("fi")
    for count in (1, 2):
        with refused(QuorumError, "nodes-too-few", match="1 nodes .* 2"):
            tracker.wait_for_nodes(members=NAMES)
        assert clock.now >= 60 * count


def test_an_online_member_that_does_not_answer_is_not_waited_for(
    clock: Clock,
) -> None:
    tracker = _tracker(*NAMES)
    grid: Any = tracker.grid
    grid.handlers["sw"] = lambda _: Message(kind=Kind.REFUSAL)
    assert tracker.wait_for_nodes(members=NAMES) == ["fi", "fr", "id"]
    del grid.handlers["sw"]
    assert tracker.wait_for_nodes(members=NAMES) == ["fi", "fr", "id"]
    assert clock.now == 0
