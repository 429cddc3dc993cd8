"""Names come from proofs: who may have one, who loses it, and what strangers cost."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from tapestry.encoding import canonical_json, decode_json
from tapestry.keys import SigningKey, VerifyKey
from tapestry.protocol.messages import (
    HelloRequest,
    Kind,
    Message,
    ReceiptReply,
    encode_message,
    expect_body,
)
from tapestry_coordinator import authenticated_grid
from tapestry_coordinator.authenticated_grid import MAX_GREETED, AuthenticatedGrid
from tapestry_coordinator.grid import LocalGrid
from tests.support.echo_members import GENESIS, identity, node_key, node_keys

Handler = Callable[[Message], Message]
WORK = Message(kind=Kind.ADVERTISE_KEYS)


class Clock:
    """Time that passes when a test says so."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(authenticated_grid, "time", clock)
    return clock


class Connection:
    """One connection: says who it is as told, and notes what it got."""

    def __init__(self, hello: Handler) -> None:
        self.hello = hello
        self.got: list[Message] = []

    def __call__(self, request: Message) -> Message:
        self.got.append(request)
        if request.kind is Kind.HELLO:
            return self.hello(request)
        return encode_message(ReceiptReply(asks=(), lacks=None))

    @property
    def work(self) -> list[Message]:
        return [message for message in self.got if message.kind is not Kind.HELLO]


def member(name: str, connection: str, **how: Any) -> Connection:
    return Connection(lambda request: identity(name, request, connection, **how))


class World:
    """A grid over connections that a test opens and closes."""

    def __init__(self, **connections: Connection) -> None:
        self.keys: dict[str, VerifyKey] = dict(node_keys())
        self.wire = LocalGrid(connections)
        self.told: list[list[str]] = []
        self.grid = AuthenticatedGrid(
            self.wire,
            genesis=GENESIS,
            keys=lambda: self.keys,
            notice=lambda said: self.told.append(sorted(said)),
        )

    def open(self, name: str, connection: Connection) -> None:
        self.wire.handlers[name] = connection

    def ask(self, *names: str) -> list[str]:
        replies = self.grid.exchange(dict.fromkeys(names, WORK), deadline=5)
        return [name for name, _ in replies]


def relayed(victim: Connection) -> Connection:
    """Somebody who has the member answer a greeting of its own."""
    return Connection(victim.hello)


def replay(victim: Connection) -> Connection:
    """Somebody who repeats what the member said to an earlier greeting."""
    kept: list[Message] = []

    def hello(request: Message) -> Message:
        kept.append(victim.hello(request))
        return kept[0]

    return Connection(hello)


THIEF = SigningKey.generate("fr.example/node")
STRANGERS: dict[str, Connection] = {
    "its own key": member("fr", "x", key=THIEF),
    "the proof of another connection": member("fr", "c1"),
    "the proof of another federation": member("fr", "x", genesis="sha256:" + "9" * 64),
    "another member's key": member("fr", "x", key=node_key("it")),
    "a name that is no member's": member("xx", "x", key=THIEF),
    "a member's answer, relayed": relayed(member("fr", "c1")),
    "a refusal": Connection(lambda _: Message(kind=Kind.REFUSAL)),
    "a malformed identity": Connection(lambda _: Message(kind=Kind.IDENTITY)),
    "an echo": Connection(lambda request: request),
}


@pytest.mark.parametrize("how", STRANGERS)
def test_a_stranger_gets_a_greeting_and_no_name(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """First come, and with a member that comes later: it takes nothing from it."""
    world = World(a=(stranger := STRANGERS[how]))
    assert world.grid.nodes() == []
    assert world.ask("fr", "xx") == []
    world.open("c1", true := member("fr", "c1"))
    assert world.grid.nodes() == ["fr"]
    assert world.ask("fr", "xx") == ["fr"]
    assert stranger.work == []
    assert true.work == [WORK]
    assert "leaving connection a out, bad hello: " in caplog.text


def test_an_answer_to_an_earlier_greeting_proves_nothing(clock: Clock) -> None:
    """Nor for the connection that it was given on: a nonce counts once."""
    world = World(c1=(again := replay(member("fr", "c1"))))
    assert world.grid.nodes() == ["fr"]
    assert [name for name, _ in world.grid.greet(["fr"], deadline=5)] == []
    world.keys["fr"] = THIEF.verify_key
    assert world.grid.nodes() == []
    world.keys["fr"] = node_key("fr").verify_key
    for _ in range(5):
        clock.now += 100
        assert world.grid.nodes() == []
    nonces = [expect_body(m, HelloRequest).nonce for m in again.got]
    assert len(set(nonces)) == len(nonces) == 7


def test_a_member_is_greeted_until_it_has_a_name_and_then_no_more() -> None:
    world = World(c1=(true := member("fr", "c1")))
    for _ in range(3):
        assert world.grid.nodes() == ["fr"]
    assert len(true.got) == 1


def test_a_proof_on_a_second_connection_replaces_the_first(clock: Clock) -> None:
    """As long as the first stays, it is not even greeted; it may come back."""
    world = World(c1=(first := member("fr", "c1")))
    world.grid.nodes()
    world.open("c2", second := member("fr", "c2"))
    assert world.grid.nodes() == ["fr"]
    for _ in range(3):
        clock.now += 100
        assert world.grid.nodes() == ["fr"]
        assert world.ask("fr") == ["fr"]
    assert (len(first.got), len(second.work)) == (1, 3)
    del world.wire.handlers["c1"]
    world.grid.nodes()
    world.open("c1", first)
    clock.now += 100
    assert world.grid.nodes() == ["fr"]
    assert world.ask("fr") == ["fr"]
    assert len(first.work) == 1


def test_a_second_connection_without_a_proof_replaces_nothing() -> None:
    world = World(c1=(true := member("fr", "c1")))
    world.grid.nodes()
    world.open("c2", thief := member("fr", "c2", key=THIEF))
    assert world.grid.nodes() == ["fr"]
    assert world.ask("fr") == ["fr"]
    assert (len(true.work), len(thief.work)) == (1, 0)


def test_a_name_goes_with_the_key_that_the_log_has(clock: Clock) -> None:
    world = World(c1=(old := member("fr", "c1")))
    assert world.grid.nodes() == ["fr"]
    world.keys["fr"] = THIEF.verify_key
    assert world.grid.nodes() == []
    assert world.ask("fr") == []
    old.hello = partial(_again, key=THIEF)
    clock.now += 100
    assert world.grid.nodes() == ["fr"]
    del world.keys["fr"]
    assert world.grid.nodes() == []


def test_a_node_whose_key_changes_is_known_by_either_proof(clock: Clock) -> None:
    """It proves by both keys, as it does not know how far the log is here."""
    both = Connection(partial(identity, "fr", connection="c1", other=THIEF))
    world = World(c1=both)
    assert world.grid.nodes() == ["fr"]
    world.keys["fr"] = THIEF.verify_key
    clock.now += 100
    assert world.grid.nodes() == ["fr"]
    assert world.ask("fr") == ["fr"]
    world.keys["fr"] = node_key("it").verify_key
    clock.now += 100
    assert world.grid.nodes() == []


def _again(request: Message, *, key: SigningKey) -> Message:
    return identity("fr", request, "c1", key=key)


def test_a_member_that_left_is_not_listed_and_keeps_its_name() -> None:
    world = World(c1=member("fr", "c1"), c2=member("it", "c2"))
    assert world.grid.nodes() == ["fr", "it"]
    true = world.wire.handlers.pop("c1")
    assert world.grid.nodes() == ["it"]
    world.wire.handlers["c1"] = true
    assert world.grid.nodes() == ["fr", "it"]


def test_each_look_tells_who_is_reachable_by_a_proof() -> None:
    stranger = Connection(lambda request: identity("fr", request, "elsewhere"))
    world = World(a=member("it", "a"), b=stranger)
    assert world.grid.nodes() == ["it"]
    world.open("c", member("de", "c"))
    world.grid.nodes()
    del world.wire.handlers["a"]
    world.grid.nodes()
    assert world.told == [["it"], ["de", "it"], ["de"]]


def test_a_roll_call_yields_what_is_proven_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(c1=(true := member("fr", "c1")), c2=member("it", "c2"))
    world.grid.nodes()
    true.hello = member("be", "c1").hello
    met = dict(world.grid.greet(["fr", "it", "xx"], deadline=5))
    assert {name: said.name for name, said in met.items()} == {"it": "it"}
    assert "leaving node fr out, bad hello: it names itself 'be'" in caplog.text
    assert world.grid.nodes() == ["fr", "it"]


@pytest.mark.parametrize("field", ["proof", "protocol", "software", "name"])
def test_an_identity_without_a_field_proves_nothing(field: str) -> None:
    def less(request: Message) -> Message:
        body = decode_json(identity("fr", request, "c1").body)
        del body[field]
        return Message(kind=Kind.IDENTITY, body=canonical_json(body))

    assert World(c1=Connection(less)).grid.nodes() == []


def test_strangers_are_greeted_ever_more_rarely(clock: Clock) -> None:
    world = World(c1=(stranger := member("fr", "x", key=THIEF)))
    for _ in range(36_000):
        clock.now += 0.1
        world.grid.nodes()
    assert 60 <= len(stranger.got) <= 75  # an hour of looks, ten a second


def test_a_flood_of_connections_is_greeted_in_bounded_parts(clock: Clock) -> None:
    """And a member among them is found, since parts are drawn at random."""
    flood = {f"c{n}": Connection(lambda _: WORK) for n in range(10 * MAX_GREETED)}
    world = World(**flood, fr=member("fr", "fr"))
    found: list[str] = []
    for _ in range(200):
        before = sum(len(each.got) for each in flood.values())
        found = world.grid.nodes()
        assert sum(len(each.got) for each in flood.values()) - before <= MAX_GREETED
        if found:
            break
        clock.now += 1
    assert found == ["fr"]


def test_nobody_waits_for_strangers_once_no_member_is_missing() -> None:
    asked: list[tuple[list[str], float]] = []

    class Timed(LocalGrid):
        def exchange(
            self, requests: Mapping[str, Message], *, deadline: float
        ) -> Iterator[tuple[str, Message]]:
            asked.append((sorted(requests), deadline))
            return super().exchange(requests, deadline=deadline)

    world = World()
    world.keys = {"fr": world.keys["fr"]}
    members = {"c1": member("fr", "c1")}
    silent = Connection(lambda _: WORK)
    grid = AuthenticatedGrid(
        Timed(members | {"z": silent}), genesis=GENESIS, keys=lambda: world.keys
    )
    assert grid.nodes() == ["fr"]
    assert silent.got == []  # the exchange ended with the last member's proof
    wire: Any = vars(grid)["_grid"]
    wire.handlers["y"] = silent
    grid.nodes()
    assert [names for names, _ in asked] == [["c1", "z"], ["y"]]
    assert asked[1][1] < asked[0][1] / 5


def test_what_strangers_say_is_not_in_the_log_of_the_coordinator(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A line tells the rule; a name is at most a name."""
    caplog.set_level(logging.DEBUG)

    def hello(request: Message) -> Message:
        body = decode_json(identity("fr", request, "x", key=THIEF).body)
        body["name"] = "\x1b[31mfr\nforged line" * 1000
        return Message(kind=Kind.IDENTITY, body=canonical_json(body))

    assert World(x=Connection(hello)).grid.nodes() == []
    (line,) = caplog.messages
    assert "forged" not in line
    assert line.isprintable()
    assert len(line) < 200
