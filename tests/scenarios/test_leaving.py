"""A member leaves: alone, at once, and the federation goes on without it."""

from datetime import UTC, datetime

from tapestry.encrypted_keys import load_key
from tapestry.protocol.messages import Kind, Message
from tapestry_governance.events.envelope import Author, sign_entry
from tapestry_governance.events.member_events import MemberLeft
from tests.support.federation import NAMES, Federation
from tests.support.federation_fixtures import Found

LEFT = NAMES[0]


def exit_of(federation: Federation, name: str) -> bytes:
    """Sign the exit of a member as its institution would."""
    folder = federation.directory / "nodes" / name
    root = load_key(folder / "keys" / "root.key", passphrase=None)
    author = Author(federation="simulated", actor=name, role="root")
    event = author.event(MemberLeft(), now=datetime.now(UTC), seen=None)
    return sign_entry(event, root)


def test_the_exit_reaches_the_log_and_rounds_go_on_without_the_member(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 2})
    federation.nodes[LEFT].store.post(exit_of(federation, LEFT))
    federation.run()
    assert [e.actor for e in federation.logged() if e.type == "member.left"] == [LEFT]
    closed = federation.closed()
    assert [set(each.included) for each in closed] == [{*NAMES} - {LEFT}] * 2
    assert federation.committed()[LEFT, 1] == 0
    assert federation.nodes[LEFT].store.outbox() == []
    federation.bundle()
    assert federation.audit().verdict == 0


def test_a_member_may_leave_between_two_rounds(found: Found) -> None:
    """Its account and its upload of the first round stay; then it is no witness."""
    federation = found(coordinator={"rounds": 2})
    federation.run_until_killed(lambda _, message: message.kind is Kind.APPLY_RESULT)
    federation.nodes[LEFT].store.post(exit_of(federation, LEFT))
    federation.run()
    first, second = federation.closed()
    assert LEFT in first.included
    assert LEFT not in second.included
    (left,) = [e for e in federation.logged() if isinstance(e.body, MemberLeft)]
    after = federation.nodes[LEFT].mirror
    assert federation.logged().index(left) < after.size
    assert after.size < federation.nodes[NAMES[1]].mirror.size
    assert LEFT not in federation.view(NAMES[1]).logged.members


def test_an_exit_that_a_coordinator_drops_waits_in_sight_and_goes_another_way(
    found: Found,
) -> None:  # [27]
    federation = found()
    federation.run()
    entry = exit_of(federation, LEFT)
    federation.nodes[LEFT].store.post(entry)
    honest = federation.wire.handlers[LEFT]

    def censored(request: Message) -> Message:
        reply = honest(request)
        if reply.kind is not Kind.COSIGNATURE:
            return reply
        return Message(kind=reply.kind, body=reply.body, attachments=[])

    federation.wire.handlers[LEFT] = censored
    for _ in range(3):
        federation.cosign()
    assert entry not in federation.entries()
    assert federation.nodes[LEFT].store.outbox() == [entry]
    federation.submit(NAMES[1], entry)
    assert entry in federation.entries()
    federation.cosign()
    assert federation.nodes[LEFT].store.outbox() == []
