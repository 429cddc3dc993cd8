"""Uploads need their entries, and bad shares end a dealer's part in the run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tapestry.errors import RuleError
from tapestry.protocol.messages import Kind, Message
from tapestry.protocol.secagg_messages import SHARE_BYTES, Reveal
from tapestry.protocol.stages import RoundStage
from tapestry.secagg.shamir import PRIME, decode_share
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.log_publisher import LogPublisher
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.envelope import Author, open_entry, sign_entry
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.events.round_events import RoundClosed, RoundOpened
from tests.coordinator.conftest import Found
from tests.support.federation import NAMES, Deliver, Federation, lost
from tests.support.refusals import refused

OTHERS = tuple(name for name in NAMES if name != "fr")
Shares = Mapping[str, str]


def _say(federation: Federation, body: Body) -> bytes:
    node = federation.nodes["fr"]
    author = Author(federation="simulated", actor="fr", role="node")
    event = author.event(body, now=node.clock(), seen=node.mirror.seen)
    return sign_entry(event, node.keys["node"])


ENTRIES: dict[str, Callable[[Federation, Body, Body], tuple[Body, Body]]] = {
    "accounts for nothing": lambda f, _, committed: (
        f.nodes["fr"].mirror.state.data["fr"],
        committed,
    ),
    "accounts for another round": lambda _, accounted, committed: (
        accounted.model_copy(update={"round_number": 2}),
        committed,
    ),
    "accounts for another run": lambda _, accounted, committed: (
        accounted.model_copy(update={"run_id": "another"}),
        committed,
    ),
    "commits to another manifest": lambda _, accounted, committed: (
        accounted,
        committed.model_copy(update={"context": "0" * 64}),
    ),
    "the wrong way round": lambda _, accounted, committed: (committed, accounted),
}


@pytest.mark.parametrize("change", list(ENTRIES.values()), ids=list(ENTRIES))
def test_an_upload_without_the_entries_that_belong_to_it_is_left_out(
    found: Found, caplog: pytest.LogCaptureFixture, change: Any
) -> None:
    """Entries of its own that the log would take one by one, but not about this."""
    federation = found()
    node = federation.nodes["fr"]

    def replace(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        said = [open_entry(bytes(e)).event.body for e in reply.attachments[:2]]
        for entry in node.store.outbox():
            node.store.clear(entry)
        entries = [_say(federation, body) for body in change(federation, *said)]
        return dataclasses.replace(
            reply, attachments=[*entries, *reply.attachments[2:]]
        )

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, replace)
    federation.run()
    (closed,) = federation.closed()
    assert closed.included == OTHERS
    assert federation.aborted() == []
    said = "round 1 goes on without node fr: its "
    assert any(said in message for message in caplog.messages)
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_refusal_brings_no_other_entry_into_the_log(found: Found) -> None:
    federation = found()

    def refuse(_name: str, request: Message, deliver: Deliver) -> Message:
        deliver(request)
        first = federation.nodes["fr"].mirror.state.data["fr"]
        entry = _say(federation, first.model_copy(update={"records": 7}))
        return Message(
            kind=Kind.REFUSAL, body=b'{"reason":"internal"}', attachments=[entry]
        )

    federation.wire.on("fr", Kind.SHARE_KEYS, refuse)
    federation.run()
    assert federation.closed()[0].included == OTHERS
    assert 7 not in [body.records for body in federation.said(DataDeclared)]


def test_a_round_that_the_rules_do_not_let_close_is_aborted(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    honest, broken = LogPublisher.append_event, [True]

    def say(self: LogPublisher, body: Body, **rest: Any) -> int:
        if isinstance(body, RoundClosed) and broken:
            broken.pop()
            raise RuleError("fr accounted for no privacy loss", code="account-missing")
        return honest(self, body, **rest)

    monkeypatch.setattr(LogPublisher, "append_event", say)
    federation.run()
    (aborted,) = federation.aborted()
    assert (aborted.stage, aborted.reason) == (RoundStage.EVALUATE, "rule_broken")
    (closed,) = federation.closed()
    assert (closed.round_number, closed.included) == (2, NAMES)


def test_a_plan_that_breaks_a_rule_is_not_tried_again(found: Found) -> None:
    federation = found(policy={"noise": ("none",)})
    with refused(RuleError, "noise-not-allowed", match="'local'"):
        federation.run()
    assert len(federation.said(RoundOpened)) == 0


def _wrong(share: str) -> str:
    """Add one: altered alike, any shares give a wrong secret, never the right one.

    Where each is altered by another number, three of four fit the secret by chance, in
    one of 25 rounds if the numbers are below 16.
    """
    value = (decode_share(bytes.fromhex(share)) + 1) % PRIME
    return value.to_bytes(SHARE_BYTES, "big").hex()


def _reveals(
    federation: Federation, name: str, change: Callable[[str, str], str]
) -> None:
    """Let a node reveal, under its signature, other shares of some dealers."""

    def fault(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        reveal = Reveal.decode(reply.body)
        current = federation.nodes[name].mirror.state.open_round
        assert current is not None
        shares = {n: change(n, share) for n, share in reveal.self_shares.items()}
        said = reveal.model_copy(update={"self_shares": shares})
        key = federation.nodes[name].keys["node"]
        return dataclasses.replace(
            reply, body=said.signed(current.manifest.context, key).encode()
        )

    federation.wire.on(name, Kind.UNMASK, fault)


def _has_closed(federation: Federation) -> bool:
    return "close" in [event.get("round_stage") for event in federation.events]


def _left_out(federation: Federation) -> set[str]:
    journal = Journal(federation.run_folder)
    names = journal.left_out()
    journal.close()
    return names


def test_a_dealer_of_bad_shares_takes_part_no_more(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    """Also after a restart; the other rounds go on."""
    federation = found(coordinator={"rounds": 2})
    for name in NAMES:
        _reveals(federation, name, lambda n, s: _wrong(s) if n == "fr" else s)
    federation.run_until_killed(
        lambda _, m: m.kind is Kind.APPLY_RESULT and _has_closed(federation)
    )
    federation.run()
    (aborted,) = federation.aborted()
    assert (aborted.stage, aborted.reason) == (RoundStage.UNMASK, "bad_shares")
    assert [c.included for c in federation.closed()] == [OTHERS] * 2
    assert _left_out(federation) == {"fr"}
    assert "leaving node fr out of the run: bad shares" in caplog.text
    assert set(federation.digests().values()) == {federation.closed()[-1].base_after}
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_reporter_of_bad_shares_changes_nothing_and_is_noted(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    federation = found()
    _reveals(federation, "fi", lambda n, s: _wrong(s) if n == "sw" else s)
    federation.run()
    assert federation.closed()[0].included == NAMES
    assert "node sw dealt or node fi revealed a wrong share" in caplog.text
    assert _left_out(federation) == set()


def test_nobody_is_blamed_where_dealer_or_reporter_may_have_lied(found: Found) -> None:
    """With as few reveals as it takes, one wrong share could be anybody's."""
    federation = found()
    federation.wire.on("id", Kind.UNMASK, lost)
    _reveals(federation, "fi", lambda n, s: _wrong(s) if n == "sw" else s)
    federation.run()
    (aborted,) = federation.aborted()
    assert (aborted.stage, aborted.reason) == (RoundStage.UNMASK, "bad_shares")
    assert _left_out(federation) == set()
    assert federation.closed()[0].included == NAMES


def test_a_share_that_is_no_number_of_the_field_is_not_taken(found: Found) -> None:
    federation = found()
    _reveals(federation, "fi", lambda _, __: "01" + "f" * 64)
    federation.run()
    assert federation.aborted() == []
    assert federation.closed()[0].included == NAMES
