"""Somebody else on the transport, under a member's name: greeted, and nothing more.

The transport of the simulator lets everybody open a connection, as a SuperLink does to
whoever reaches its control paths.
"""

from collections.abc import Callable

import pytest

from tapestry.keys import SigningKey
from tapestry.protocol.messages import BODY_LIMIT, Kind, Message
from tests.coordinator.conftest import Found
from tests.support.echo_members import identity
from tests.support.federation import NAMES, Federation

Handler = Callable[[Message], Message]
FIRST, LATER = "a-stranger", "stranger"  # they answer before fr and after it
THIEF = SigningKey.generate("fr.example/node")


def own_key(federation: Federation, connection: str) -> Handler:
    """Claim the name under a key of its own, bound to charter, nonce, connection."""
    genesis = federation.genesis
    return lambda request: identity(
        "fr", request, connection, key=THIEF, genesis=genesis
    )


def relay(federation: Federation, _: str) -> Handler:
    """Have the member itself answer, on the member's own connection."""
    return federation.wire.handlers["fr"]


def replay(federation: Federation, _: str) -> Handler:
    """Repeat an answer that the member gave to an earlier coordinator."""
    kept: list[Message] = []
    honest = federation.wire.handlers["fr"]

    def listened(request: Message) -> Message:
        reply = honest(request)
        if reply.kind is Kind.IDENTITY:
            kept.append(reply)
        return reply

    federation.wire.handlers["fr"] = listened
    federation.run()
    federation.wire.handlers["fr"] = honest
    return lambda _: kept[0]


def flooding(_federation: Federation, _: str) -> Handler:
    """Answer with as much as fits into a message."""
    return lambda _: Message(kind=Kind.IDENTITY, body=b" " * BODY_LIMIT)


OUTSIDERS = {
    "own key": own_key,
    "relay": relay,
    "replay": replay,
    "flooding": flooding,
}


def heard(federation: Federation, connection: str) -> set[Kind]:
    return {e.request.kind for e in federation.wire.log if e.node == connection}


@pytest.mark.parametrize("connection", [FIRST, LATER])
@pytest.mark.parametrize("how", OUTSIDERS)
def test_an_outsider_gets_no_message_of_a_round_and_no_name(
    found: Found, how: str, connection: str
) -> None:
    """The run goes on with the true member; of two proofs the newest counts."""
    federation = found()
    federation.wire.handlers[connection] = OUTSIDERS[how](federation, connection)
    federation.run()
    assert heard(federation, connection) <= {Kind.HELLO}
    assert [closed.included for closed in federation.closed()] == [NAMES]
    assert federation.aborted() == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["own key", "flooding"])
def test_where_the_member_is_kept_out_nobody_takes_its_place(
    found: Found, how: str
) -> None:
    """Who controls the transport can refuse service, and gains nothing by it."""
    federation = found()
    federation.wire.handlers[FIRST] = OUTSIDERS[how](federation, FIRST)
    federation.kill("fr")
    federation.run()
    assert heard(federation, FIRST) == {Kind.HELLO}
    (closed,) = federation.closed()
    assert set(closed.included) == set(NAMES) - {"fr"}


def test_a_second_connection_of_a_member_takes_the_place_of_the_first(
    found: Found,
) -> None:
    """It proves the same key; the first gets no message any more."""
    federation = found(coordinator={"rounds": 2})
    node = federation.nodes["fr"]

    def move(_name: str, message: Message) -> None:
        if message.kind is Kind.APPLY_RESULT:
            federation.wire.handlers["moved"] = lambda m: node.handle(m, "moved")

    federation.wire.before = move
    federation.run()
    assert [closed.included for closed in federation.closed()] == [NAMES, NAMES]
    assert Kind.MASKED_INPUT in {
        e.reply.kind for e in federation.wire.log if e.node == "moved" and e.reply
    }
