"""Attendance: the nodes that a pass waits for."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import QuorumError
from tapestry.protocol.messages import (
    Kind,
    Message,
    Reason,
    ReceiptReply,
    Refusal,
    RoundName,
    encode_message,
)
from tapestry_coordinator import node_tracker
from tapestry_coordinator.authenticated_grid import AuthenticatedGrid
from tapestry_coordinator.grid import LocalGrid
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.node_tracker import NodeTracker
from tapestry_coordinator.run_folders import HELD_OUT, run_folder
from tests.coordinator.test_missed_results import write_run
from tests.support.echo_members import GENESIS, identity, node_key
from tests.support.gate_models import inputs
from tests.support.refusals import refused

NAMES = ("fi", "fr", "id", "sw")
ALL = [("earlier", 1), ("earlier", 2), ("run", 1), ("run", 2)]


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

    def __init__(
        self,
        *names: str,
        directory: Path = Path("coordinator"),
        journal: Any = None,
    ) -> None:
        self.wire = LocalGrid({name: _node(name) for name in names})
        keys = {name: node_key(name).verify_key for name in NAMES}
        settings: Any = SimpleNamespace(
            deadlines=SimpleNamespace(advertise_keys=60, cosign=5, apply_result=300),
            secagg=SimpleNamespace(min_cohort=2),
            run_id="run",
        )
        ends = {("lost", 1): 1} | {end: 2 + place for place, end in enumerate(ALL)}
        state = SimpleNamespace(
            size=6,
            closed=SimpleNamespace(last=SimpleNamespace(index=5)),
            closed_round=lambda number, run, within: (
                SimpleNamespace(index=ends[run, number])
                if ends.get((run, number), within) < within
                else None
            ),
        )
        publisher: Any = SimpleNamespace(
            record_mirror_size=lambda *_: None, state=state, checkpoint=b"note"
        )
        self.tracker = NodeTracker(
            settings=settings,
            grid=AuthenticatedGrid(self.wire, genesis=GENESIS, keys=lambda: keys),
            publisher=publisher,
            journal=journal,
            directory=directory,
            gate=inputs(),
        )


def test_a_pass_with_all_members_online_does_not_wait(clock: Clock) -> None:
    assert Tracked(*NAMES).tracker.wait_for_nodes(members=NAMES) == list(NAMES)
    assert clock.now == 0


def test_a_node_whose_log_ends_before_the_last_result_does_not_know_what_it_lacks() -> (
    None
):
    world, lacks = Tracked("fi", "fr", "id"), RoundName(run_id="run", round_number=2)
    world.wire.handlers["fi"] = _node("fi", size=5)
    world.wire.handlers["fr"] = _node("fr", size=6)
    world.wire.handlers["id"] = _node("id", size=6, lacks=lacks.model_dump())
    for _ in range(2):
        assert world.tracker.exchange_hello(["fi", "fr", "id"]) == ["fi", "fr", "id"]
        assert world.tracker.lacks == {"fr": None, "id": lacks}
        world.tracker.lacks["fi"] = None
    world.tracker.lacks["fr"] = None
    world.tracker.announce(3)
    closed = RoundName(run_id="run", round_number=3)
    expected = {"fi": closed, "fr": closed, "id": lacks}
    assert world.tracker.lacks == expected


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


class Follower:
    """A node that takes results in its own order, as far as it can."""

    def __init__(self, *way: tuple[str, int]) -> None:
        self.way = [RoundName(run_id=run, round_number=n) for run, n in way]
        self.takes, self.told = True, list[tuple[str, str, int]]()
        self.seconds, self.clock = 0.0, Clock()
        self.again = False  # says that it lacks what it has just taken

    def answer(self, name: str) -> Callable[[Message], Message]:
        def reply(request: Message) -> Message:
            if request.kind is Kind.HELLO:
                first = self.way[0].model_dump() if self.way else None
                return _node(name, size=6, lacks=first)(request)
            body = decode_json(request.body)
            run, number = body["run_id"], body.get("round_number", 0)
            self.told.append((request.kind.value, run, number))
            self.clock.sleep(self.seconds)
            if not self.takes:
                return encode_message(Refusal(reason=Reason.INTERNAL))
            if request.kind is Kind.APPLY_RESULT and not self.again:
                assert self.way[0] == RoundName(run_id=run, round_number=number)
                del self.way[0]
            lacks = self.way[0] if self.way else None
            return encode_message(ReceiptReply(asks=(), lacks=lacks))

        return reply

    @property
    def results(self) -> list[tuple[str, int]]:
        said = (each[1:] for each in self.told if each[0] == Kind.APPLY_RESULT)
        return list(said)


Serve = Callable[..., NodeTracker]


@pytest.fixture
def serve(tmp_path: Path, clock: Clock) -> Iterator[Serve]:
    """Serve results of two rounds of an earlier run and of the run ``run``."""
    for run_id in ("earlier", "run"):
        folder = write_run(tmp_path, run_id)
        (folder / HELD_OUT / "fr.jsonl").write_bytes(b"text")
        with closing(Journal(folder)) as journal:
            journal.open_round(2, journal.row(1).manifest)
            journal.store_sum(2, journal.load_sum(1))
            journal.store_result(2, journal.result(1))
            journal.settle(2, "closed")
    own = Journal(run_folder(tmp_path, "run"))

    def make(**followers: Follower) -> NodeTracker:
        world = Tracked(*followers, directory=tmp_path, journal=own)
        for name, follower in followers.items():
            follower.clock = clock
            world.wire.handlers[name] = follower.answer(name)
        assert world.tracker.exchange_hello(list(followers)) == sorted(followers)
        return world.tracker

    yield make
    own.close()


def test_each_node_gets_what_it_says_that_it_lacks_and_the_data_of_its_gate(
    serve: Serve,
) -> None:
    nodes = {"fi": Follower(*ALL), "fr": Follower(ALL[3]), "id": Follower()}
    tracker = serve(**nodes)
    tracker.catch_up(list(nodes))
    assert nodes["fi"].results == ALL
    shown = [each[1:] for each in nodes["fi"].told if each[0] == Kind.SHOW_HELD_OUT]
    assert shown[0] == ("earlier", 0)
    assert nodes["fr"].results == ALL[3:]
    assert nodes["id"].told == []
    assert tracker.lacks == dict.fromkeys(nodes)
    assert (tracker.failures, tracker.behind) == ({}, set())
    tracker.catch_up(list(nodes))
    assert nodes["fi"].results == ALL


def test_the_result_of_the_last_round_goes_out_before_older_ones(
    serve: Serve,
) -> None:
    behind, newest = Follower(*ALL), Follower(ALL[3])
    tracker = serve(fi=behind, fr=newest)
    behind.told = newest.told  # in one list, in the order of both
    tracker.catch_up(["fi", "fr"])
    assert newest.results == [ALL[3], *ALL]


def test_a_pass_ends_in_time_and_the_next_one_goes_on(
    serve: Serve,
) -> None:
    node = Follower(*ALL)
    node.seconds = 200.0  # for data and result; a pass gives 300
    tracker = serve(fi=node)
    tracker.catch_up(["fi"])
    assert node.results == ALL[:1]
    assert tracker.behind == {"fi"}
    node.seconds = 0.0
    tracker.catch_up(["fi"])
    assert node.results == ALL
    assert tracker.behind == set()


@pytest.mark.parametrize("again", [False, True], ids=["refuses", "asks again"])
def test_a_node_that_takes_no_result_gets_it_ever_more_rarely(
    serve: Serve, clock: Clock, again: bool
) -> None:
    node = Follower(*ALL)
    node.takes, node.again = again, again
    tracker = serve(fi=node, fr=Follower())
    times = []
    for _ in range(24 * 3600):
        before = len(node.results)
        tracker.catch_up(["fi"])
        times += [clock.now] * (len(node.results) - before)
        assert len(times) < 50
        clock.sleep(1.0)
    pauses = [later - sooner for sooner, later in pairwise(times)]
    assert pauses[:6] == [1, 20, 40, 80, 160, 320]  # the first failure may be chance
    assert set(pauses[9:]) == {3600}
    assert node.results == ALL[:1] * len(node.results)
    assert tracker.behind == set()
    node.takes, node.again = True, False
    tracker.wait_for_nodes()  # it stayed, and nothing is known of a remedy
    tracker.catch_up(["fi"])
    assert node.way
    clock.sleep(3600)
    tracker.catch_up(["fi"])
    assert not node.way
    assert tracker.failures == {}


@pytest.mark.parametrize("failures", [2, 3])
def test_who_went_away_is_tried_at_once_when_it_is_back_unless_it_failed_often(
    serve: Serve, clock: Clock, failures: int
) -> None:
    node = Follower(*ALL)
    tracker = serve(fi=node, fr=Follower(), id=Follower())
    node.takes = False
    for _ in range(failures):
        tracker.catch_up(["fi"])
        clock.sleep(25)
    grid: Any = tracker.grid
    wire = grid._grid  # noqa: SLF001 - the transport of this test
    handler = wire.handlers.pop("fi")
    tracker.wait_for_nodes()
    wire.handlers["fi"], node.takes = handler, True
    clock.now -= 50  # no pause is over
    tracker.wait_for_nodes()
    tracker.catch_up(["fi"])
    assert bool(node.way) == (failures == 3)


class Wavering(Follower):
    """A node that takes each of two results, and then wants the other one."""

    def answer(self, name: str) -> Callable[[Message], Message]:
        def reply(request: Message) -> Message:
            if request.kind is Kind.APPLY_RESULT:
                self.way.append(self.way[0])
            return follow(request)

        follow = super().answer(name)
        return reply


def test_a_node_that_wants_again_what_it_took_gets_it_ever_more_rarely(
    serve: Serve, clock: Clock
) -> None:
    node = Wavering(*ALL[:2])
    node.seconds = 1.0
    tracker = serve(fi=node, fr=Follower())
    for _ in range(24 * 3600):
        tracker.catch_up(["fi"])
        assert len(node.results) < 120
        clock.sleep(1.0)
    assert len(node.results) > 64  # all that it may take again, and then with pauses


def test_members_that_are_silent_hold_up_no_pass_one_after_the_other(
    serve: Serve, clock: Clock
) -> None:
    nodes = {name: Follower(end) for name, end in zip(NAMES, ALL, strict=True)}
    for node in nodes.values():
        node.takes, node.seconds = False, 149.0
    tracker = serve(**nodes)
    tracker.catch_up(list(nodes))
    assert clock.now <= 300


def test_a_round_that_the_log_does_not_close_is_sent_to_no_one(serve: Serve) -> None:
    node = Follower(("made-up", 7))
    tracker = serve(fi=node, fr=Follower())
    tracker.catch_up(["fi"])
    assert (node.told, tracker.failures, tracker.behind) == ([], {}, set())


def test_a_result_that_is_not_here_is_no_fault_of_the_node(
    serve: Serve,
) -> None:
    node = Follower(("lost", 1), ("run", 1))
    tracker = serve(fi=node, fr=Follower())
    tracker.catch_up(["fi"])
    assert node.told == []
    assert (tracker.failures, tracker.behind) == ({}, set())
