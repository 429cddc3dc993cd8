"""Nodes that send poison, and a coordinator that says what is not so."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import QuorumError, RuleError, TapestryError
from tapestry.protocol.messages import Kind, Message
from tapestry.secagg import client
from tapestry.secagg.client_states import MasksReady
from tapestry.vectors import FloatVector, Quantized
from tapestry_coordinator import log_publisher
from tapestry_coordinator.acceptance_gate import AcceptanceGate
from tapestry_governance.audit import privacy_accounts
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.envelope import Author, open_entry, sign_entry
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import RoundClosed
from tapestry_governance.rules.replay import apply_all
from tests.scenarios.conftest import Found
from tests.scenarios.test_refusals import reason_in
from tests.support.federation import NAMES, Deliver, Federation, answered, changed
from tests.support.log_world import with_loss
from tests.support.refusals import refused
from tests.support.replicas import replica_of

OTHERS = tuple(name for name in NAMES if name != "fr")

pytestmark = pytest.mark.slow


def unharmed(federation: Federation, reason: str) -> None:
    """The round is logged as rejected, and nobody's base has moved."""
    (closed,) = federation.closed()
    assert (closed.outcome, closed.reason) == ("rejected", reason)
    assert closed.base_after == closed.base_before == federation.base.replica.digest
    assert set(federation.digests().values()) == {closed.base_before}
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_an_update_that_is_too_long_is_cut_by_its_own_node(found: Found) -> None:
    """In range: clipping bounds what one node can do, and the gate sees the rest."""
    federation = found(coordinator={"outer": {"max_norm": "0.9"}})
    for name in NAMES:
        federation.poison[name] = lambda update: np.full_like(update, 1e6)
    federation.run()
    unharmed(federation, "norm_too_large")


def test_poison_in_range_that_makes_the_base_worse_is_taken_back(
    found: Found,
) -> None:
    federation = found(
        coordinator={
            "training": {"targets": ("o_proj", "down_proj")},
            "secagg": {"clip_norm": "512", "clip_value": "64"},
            "outer": {"max_norm": "1000", "max_loss_increase": "0.01"},
        }
    )

    def harm(update: FloatVector) -> FloatVector:
        signs = np.sign(np.random.default_rng(5).standard_normal(update.size))
        return (64 * signs).astype(np.float32)

    federation.poison["fr"] = harm
    federation.run()
    unharmed(federation, "held_out_worse")


def test_an_update_that_is_not_finite_counts_as_nothing(found: Found) -> None:
    federation = found()
    federation.poison["fr"] = lambda update: np.full_like(update, np.nan)
    federation.run()
    (closed,) = federation.closed()
    assert (closed.outcome, closed.included) == ("applied", NAMES)
    assert set(federation.digests().values()) == {closed.base_after}


def test_poison_out_of_range_is_rejected(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node without our clipping puts 2**31 into one coordinate."""

    honest = client.mask_input

    def mask_input(state: MasksReady, update: Quantized, **rest: Any) -> Any:
        if state.round.node == "fr":
            update.values[0] ^= np.uint32(1 << 31)
        return honest(state, update, **rest)

    monkeypatch.setattr(client, "mask_input", mask_input)
    federation = found()
    federation.run()
    unharmed(federation, "sum_out_of_range")


REPLIES = {
    "a list": Message(kind=Kind.REFUSAL, body=b"[]"),
    "no JSON": Message(kind=Kind.REFUSAL, body=b"\xff"),
    "strange entries": Message(
        kind=Kind.REFUSAL, body=b'{"reason":"internal"}', attachments=[b"{}"] * 3
    ),
    "a request": Message(kind=Kind.ADVERTISE_KEYS),
    "an empty upload": Message(kind=Kind.MASKED_INPUT, attachments=[b"", b""]),
    "an empty publication": Message(kind=Kind.PUBLICATION),
}
REQUESTS = [
    *(
        Kind.HELLO,
        Kind.COSIGN,
        Kind.ADVERTISE_KEYS,
        Kind.SHARE_KEYS,
        Kind.COLLECT_MASKED_INPUTS,
    ),
    *(
        Kind.CHECK_CONSISTENCY,
        Kind.UNMASK,
        Kind.APPLY_RESULT,
        Kind.CHECK_CHUNK,
        Kind.PUBLISH_ADAPTER,
    ),
]


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(reply, id=name, marks=() if name == "a list" else pytest.mark.slow)
        for name, reply in REPLIES.items()
    ],
)
def test_no_answer_of_one_node_stops_the_run(found: Found, reply: Message) -> None:
    """Garbage in return for every kind of request, one after another."""
    federation = found(coordinator={"rounds": 6, "adapters": True})
    for kind in REQUESTS:
        federation.wire.on("fr", kind, answered(reply))
    federation.run()
    assert len(federation.closed()) == 6
    assert all(set(OTHERS) <= set(body.included) for body in federation.closed())
    adapters = federation.coordinator / "adapters"
    assert {p.name for p in adapters.iterdir()} >= set(OTHERS)
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def _event_of(entry: bytes | memoryview) -> Any:
    return open_entry(bytes(entry)).event


def _entries_of(federation: Federation, name: str) -> list[bytes]:
    sent = [
        e.reply
        for e in federation.wire.replies(Kind.COLLECT_MASKED_INPUTS)
        if e.node == name and e.reply is not None
    ]
    return [bytes(entry) for entry in sent[-1].attachments[:2]]


def _swap_entries(federation: Federation, *places: int) -> None:
    """Let ``fr`` hand in entries of ``fi``, who answers before it, as its own."""

    def swap(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        attachments = list(reply.attachments)
        for place in places:
            attachments[place] = _entries_of(federation, "fi")[place]
        return dataclasses.replace(reply, attachments=attachments)

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, swap)


@pytest.mark.parametrize("places", [(0,), (1,), (0, 1)], ids=["cost", "root", "both"])
def test_an_upload_under_entries_of_another_node_is_left_out(
    found: Found, places: tuple[int, ...]
) -> None:
    federation = found()
    _swap_entries(federation, *places)
    federation.run()
    (closed,) = federation.closed()
    assert closed.included == OTHERS
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_an_upload_that_is_not_the_one_committed_to_is_left_out(
    found: Found,
) -> None:
    """The log must name what was summed, or nobody could dispute it."""
    federation = found()
    node = federation.nodes["fr"]

    def commit_to_another(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        said = _event_of(reply.attachments[1])
        body = said.body.model_copy(update={"masked_root": "0" * 64})
        author = Author(federation=said.federation, actor="fr", role="node")
        event = author.event(body, now=node.clock(), seen=node.mirror.seen)
        entry = sign_entry(event, node.keys["node"])
        attachments = [reply.attachments[0], entry, *reply.attachments[2:]]
        return dataclasses.replace(reply, attachments=attachments)

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, commit_to_another)
    federation.run()
    (closed,) = federation.closed()
    assert closed.included == OTHERS


@pytest.mark.parametrize("colluding", ["nobody", "the coordinator", "everybody"])
def test_an_understated_cost_gets_past_nobody_who_is_honest(
    found: Found, monkeypatch: pytest.MonkeyPatch, colluding: str
) -> None:
    federation = found()
    if colluding != "nobody":
        monkeypatch.setattr(log_publisher, "check_new", lambda *_: None)
    if colluding == "everybody":
        monkeypatch.setattr(privacy_accounts, "check_new", lambda *_: None)
    node = federation.nodes["fr"]

    def understate(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        said = _event_of(reply.attachments[0])
        assert isinstance(said.body, DpAccounted)
        body = with_loss(said.body, epsilon="0.001")
        author = Author(federation=said.federation, actor="fr", role="node")
        event = author.event(body, now=node.clock(), seen=node.mirror.seen)
        for entry in node.store.outbox():
            node.store.clear(entry)
        entry = sign_entry(event, node.keys["node"])
        attachments = [entry, *reply.attachments[1:]]
        return dataclasses.replace(reply, attachments=attachments)

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, understate)
    if colluding == "the coordinator":
        with refused(QuorumError, "quorum-not-reached"):  # nobody cosigns it
            federation.run()
        (evidence, *_) = federation.nodes["id"].mirror.evidence()
        assert "fr reports epsilon 0.001" in evidence.reason
        return
    federation.run()
    federation.bundle()
    if colluding == "nobody":
        (closed,) = federation.closed()
        assert "fr" not in closed.included
        assert federation.audit().verdict is AuditVerdict.HOLDS
    else:
        assert federation.audit().verdict is AuditVerdict.RULE_BROKEN


def test_an_adapter_under_the_name_of_another_does_not_replace_it(
    found: Found,
) -> None:
    """``sw`` publishes what ``fi`` has published, with other weights."""
    federation = found(coordinator={"adapters": True})

    def steal(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        first = federation.wire.replies(Kind.PUBLISH_ADAPTER)[0]
        assert first.node == "fi"
        assert first.reply is not None
        theirs = list(first.reply.attachments[:2])
        return dataclasses.replace(
            reply, attachments=theirs + list(reply.attachments[2:])
        )

    federation.wire.on("sw", Kind.PUBLISH_ADAPTER, steal)
    federation.run()
    adapters = federation.coordinator / "adapters"
    assert sorted(p.name for p in adapters.iterdir()) == ["fi", "fr", "id"]
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


FILES: dict[str, Callable[[list[str]], Any]] = {
    "no list": lambda _: 1,
    "numbers": lambda names: [1] * len(names),
    "a way out": lambda names: ["../../stolen", *names[1:]],
    "a file in a file": lambda names: ["a", "a/b", *names[2:]],
    "twice the same": lambda names: [names[0], *names[:-1]],
}


@pytest.mark.slow
@pytest.mark.parametrize("change", list(FILES.values()), ids=list(FILES))
def test_a_publication_with_strange_file_names_is_not_kept(
    found: Found, change: Callable[[list[str]], Any]
) -> None:
    federation = found(coordinator={"adapters": True})

    def rename(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        body = {"files": change(decode_json(reply.body)["files"])}
        return dataclasses.replace(reply, body=canonical_json(body))

    federation.wire.on("fi", Kind.PUBLISH_ADAPTER, rename)
    federation.run()
    adapters = federation.coordinator / "adapters"
    assert sorted(p.name for p in adapters.iterdir()) == ["fr", "id", "sw"]
    assert not list(federation.directory.rglob("stolen"))


def test_a_result_that_is_not_the_logs_is_refused_by_every_node(
    found: Found,
) -> None:
    """Another sum on its way to a node than the log names."""
    federation = found()

    def other_sum(message: Message) -> Message:
        chunks = [bytes(chunk) for chunk in message.attachments]
        chunks[0] = bytes([chunks[0][0] ^ 1]) + chunks[0][1:]
        return dataclasses.replace(message, attachments=chunks)

    for name in NAMES:
        federation.wire.on(name, Kind.APPLY_RESULT, changed(other_sum), times=3)
    with refused(QuorumError, "quorum-not-reached"):  # nobody vouches for the release
        federation.run()
    given = federation.base.replica.digest
    assert set(federation.digests().values()) == {given}
    reasons = {
        reason_in(e.reply)
        for e in federation.wire.replies(Kind.APPLY_RESULT)
        if e.reply is not None
    }
    assert reasons == {"not_in_log"}


def test_a_base_that_does_not_follow_from_the_sum_is_refused(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names other parameters after the round than the sum gives."""
    federation = found()
    _log_another_base(monkeypatch)
    with refused(TapestryError, "quorum-not-reached"):
        federation.run()
    assert len(federation.closed()) == 1
    assert set(federation.digests().values()) == {federation.base.replica.digest}
    reasons = {
        reason_in(e.reply)
        for e in federation.wire.replies(Kind.APPLY_RESULT)
        if e.reply is not None
    }
    assert reasons == {"not_in_log"}


def test_a_release_of_other_parameters_gets_no_cosignature(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    _log_another_base(monkeypatch)
    with refused(QuorumError, "quorum-not-reached"):
        federation.run()
    (release,) = federation.said(ReleasePublished)
    assert federation.cosigned()[-1].type == "round.closed"
    assert release.model_digest == federation.closed()[0].release_digest
    reply = federation.wire.replies(Kind.COSIGN)[-1].reply
    assert reply is not None
    assert reason_in(reply) == "not_in_log"


def _log_another_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator steps somewhere else than where the sum leads, and says so."""
    honest = AcceptanceGate.judge

    def judge(gate: AcceptanceGate, *arguments: Any, **rest: Any) -> Any:
        verdict = honest(gate, *arguments, **rest)
        values = dict(verdict.replica.parameters)
        name = max(values)
        values[name] = values[name] + np.float32(1)
        return dataclasses.replace(verdict, replica=replica_of(values))

    monkeypatch.setattr(AcceptanceGate, "judge", judge)


def test_a_release_whose_entry_names_other_parameters_gets_no_cosignature(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every honest copy of it would fail its audit for ever."""
    federation = found()
    honest = log_publisher.LogPublisher.append_event

    def say(self: Any, body: Any, **rest: Any) -> int:
        if isinstance(body, ReleasePublished):
            body = body.model_copy(update={"parameters_digest": "sha256:" + "6" * 64})
        return honest(self, body, **rest)

    monkeypatch.setattr(log_publisher.LogPublisher, "append_event", say)
    with pytest.raises(QuorumError):
        federation.run()


@pytest.mark.parametrize(
    "rule", ["a release of another base", "a round that nobody opened"]
)
def test_a_log_that_breaks_a_rule_gets_no_cosignature(
    found: Found, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """The coordinator's own check of the rules is gone; those of the nodes are not."""
    federation = found()

    def lenient(state: Any, entries: Any) -> Any:
        try:
            return apply_all(state, entries)
        except RuleError:
            return state

    monkeypatch.setattr(log_publisher, "apply_all", lenient)
    honest = log_publisher.LogPublisher.append_event

    def say(self: Any, body: Any, **rest: Any) -> int:
        if isinstance(body, ReleasePublished) and "release" in rule:
            body = body.model_copy(update={"model_digest": "sha256:" + "6" * 64})
        if isinstance(body, RoundClosed) and "round" in rule:
            body = body.model_copy(update={"round_number": 7})
        return honest(self, body, **rest)

    monkeypatch.setattr(log_publisher.LogPublisher, "append_event", say)
    with pytest.raises(TapestryError):
        federation.run()
    reasons = [
        reason_in(e.reply)
        for e in federation.wire.replies(Kind.COSIGN)
        if e.reply is not None and e.reply.kind is Kind.REFUSAL
    ]
    assert set(reasons) == {"not_in_log"}
    assert len(reasons) >= len(NAMES)
    assert all(
        "entry" in node.mirror.evidence()[-1].reason
        for node in federation.nodes.values()
    )
