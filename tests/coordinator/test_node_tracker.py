"""Attendance: the nodes that a pass waits for."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import QuorumError
from tapestry.protocol.messages import Kind, Message
from tapestry_coordinator import node_tracker
from tapestry_coordinator.authenticated_grid import AuthenticatedGrid
from tapestry_coordinator.grid import LocalGrid
from tapestry_coordinator.node_tracker import NodeTracker
from tests.support.echo_members import GENESIS, identity, node_key
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


def _node(name: str, **fields: Any) -> Callable[[Message], Message]:
    def answer(request: Message) -> Message:
        body = decode_json(identity(name, request, name).body)
        return Message(kind=Kind.IDENTITY, body=canonical_json(body | fields))

    return answer


class Tracked:
    """A tracker over nodes of a test, whose connections have their names."""

    def __init__(self, *names: str) -> None:
        self.wire = LocalGrid({name: _node(name) for name in names})
        keys = {name: node_key(name).verify_key for name in NAMES}
        settings: Any = SimpleNamespace(
            deadlines=SimpleNamespace(advertise_keys=60, cosign=5),
            secagg=SimpleNamespace(min_cohort=2),
            run_id="run",
        )
        state = SimpleNamespace(runs={"run": 5})  # the index of its first entry
        publisher: Any = SimpleNamespace(
            record_mirror_size=lambda *_: None, state=state
        )
        journal: Any = None
        self.tracker = NodeTracker(
            settings=settings,
            grid=AuthenticatedGrid(self.wire, genesis=GENESIS, keys=lambda: keys),
            publisher=publisher,
            journal=journal,
            held_out=Path("held-out"),
            gate=inputs(),
        )


def test_a_pass_with_all_members_online_does_not_wait(clock: Clock) -> None:
    assert Tracked(*NAMES).tracker.wait_for_nodes(members=NAMES) == list(NAMES)
    assert clock.now == 0


def test_rounds_that_a_node_counts_in_an_earlier_run_are_none_of_this_one() -> None:
    tracker = Tracked("fi", "fr")
    tracker.wire.handlers["fi"] = _node("fi", applied=2, size=5)
    tracker.wire.handlers["fr"] = _node("fr", applied=2, size=6)
    assert tracker.tracker.exchange_hello(["fi", "fr"]) == ["fi", "fr"]
    assert tracker.tracker.applied == {"fi": 0, "fr": 2}


def test_a_node_that_refuses_everything_is_not_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Tracked("fi", "fr")
    tracker.wire.handlers["fi"] = _node("fi", refuses="records-missing")
    assert tracker.tracker.exchange_hello(["fi", "fr"]) == ["fr"]
    said = "node fi refuses everything: its data have no records [records-missing]"
    assert said in caplog.text


def test_an_absent_member_is_waited_for_once(clock: Clock) -> None:
    world = Tracked("fi", "fr", "id")
    assert world.tracker.wait_for_nodes(members=NAMES) == ["fi", "fr", "id"]
    assert clock.now >= 60
    before = clock.now
    assert world.tracker.wait_for_nodes(members=NAMES) == ["fi", "fr", "id"]
    assert clock.now == before


def test_a_member_that_comes_back_is_waited_for_again(clock: Clock) -> None:
    world = Tracked("fi", "fr", "id")
    world.tracker.wait_for_nodes(members=NAMES)
    world.wire.handlers["sw"] = _node("sw")
    before = clock.now
    assert world.tracker.wait_for_nodes(members=NAMES) == list(NAMES)
    assert clock.now == before
    del world.wire.handlers["sw"]
    world.tracker.wait_for_nodes(members=NAMES)
    assert clock.now >= before + 60


def test_below_the_floor_every_pass_waits(clock: Clock) -> None:
    world = Tracked("fi")
    for count in (1, 2):
        with refused(QuorumError, "nodes-too-few", match="1 nodes .* 2"):
            world.tracker.wait_for_nodes(members=NAMES)
        assert clock.now >= 60 * count


def test_an_online_member_that_does_not_answer_is_not_waited_for(
    clock: Clock,
) -> None:
    world = Tracked(*NAMES)
    assert world.tracker.wait_for_nodes(members=NAMES) == list(NAMES)
    world.wire.handlers["sw"] = lambda _: Message(kind=Kind.REFUSAL)
    assert world.tracker.wait_for_nodes(members=NAMES) == ["fi", "fr", "id"]
    del world.wire.handlers["sw"]
    assert world.tracker.wait_for_nodes(members=NAMES) == ["fi", "fr", "id"]
    assert clock.now == 0


def test_a_node_of_another_protocol_is_left_out_by_its_rule(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = Tracked(*NAMES)
    world.wire.handlers["sw"] = _node("sw", protocol="tapestry-secagg/0")
    assert world.tracker.wait_for_nodes(members=NAMES) == ["fi", "fr", "id"]
    assert (
        "leaving node sw out, bad hello: it speaks 'tapestry-secagg/0'" in caplog.text
    )


def test_a_node_with_other_software_is_named_and_takes_part(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A round names the software that it allows; the node itself refuses the others."""
    world = Tracked(*NAMES)
    other = "sha256:" + "7" * 64
    world.wire.handlers["sw"] = _node("sw", software=other)
    assert world.tracker.wait_for_nodes(members=NAMES) == list(NAMES)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warned == [f"node sw runs other software, {other}"]


def test_a_node_that_took_a_result_moments_ago_is_not_greeted_once(
    clock: Clock,
) -> None:
    world = Tracked(*NAMES)
    greeted: list[str] = []
    answer = world.wire.handlers["sw"]

    def counted(request: Message) -> Message:
        greeted.append("sw")
        return answer(request)

    world.tracker.wait_for_nodes(members=NAMES)
    world.wire.handlers["sw"] = counted
    world.tracker.taken["sw"] = clock.now
    assert world.tracker.wait_for_nodes(members=NAMES) == list(NAMES)
    assert greeted == []
    assert world.tracker.wait_for_nodes(members=NAMES) == list(NAMES)
    assert greeted == ["sw"]
    world.tracker.taken["sw"] = clock.now
    clock.sleep(11)
    assert world.tracker.wait_for_nodes(members=NAMES) == list(NAMES)
    assert greeted == ["sw"] * 2
